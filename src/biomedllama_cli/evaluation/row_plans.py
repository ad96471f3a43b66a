"""Which groups of sequences stand in which row, and which rows are computed together.

The rows depend on the groups alone: neither on the number of rows per forward nor on ranks, nor on what was scored
before an interruption.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from biomedllama_cli.evaluation.preambles import Preambles
from biomedllama_cli.evaluation.token_trees import (
    NO_PREAMBLE,
    Group,
    TreeInput,
    count_nodes,
    cut_input,
    find_leaves,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a row may be.

    Attributes:
        context_length: longest input (in tokens).
        row_tokens: nodes of a row that holds several groups.
        multiple: rows are padded to a multiple of this.
        longest_input: sequences above it cannot share; None for no limit.
    """

    context_length: int
    row_tokens: int
    multiple: int
    longest_input: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Groups laid out together.

    Attributes:
        groups: their numbers.
        preambles: numbers of the preambles that any of them continues, ascending.
        length: tokens of the padded row.
        chain: whether it is a single sequence, for which the model's own causal mask is right, and faster.
        plain: whether each leaf stands in a row of its own, with the model's own causal mask.
    """

    groups: tuple[int, ...]
    preambles: tuple[int, ...]
    length: int
    chain: bool = False
    plain: bool = False


Batch = tuple[Row, ...]
"""Rows of one forward: same preambles, same length, all chains or none; or plain rows."""


def plan_batches(
    groups: Sequence[Group], preambles: Preambles, limits: Limits, batch_size: int
) -> list[Batch]:
    """Return all batches, in an order that depends on the groups alone."""
    sizes: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    plain: list[Row] = []
    chains: set[int] = set()
    for number, group in enumerate(groups):
        inputs = [cut_input(sequence, limits.context_length) for sequence in group]
        if limits.longest_input is not None and max(map(len, inputs)) > limits.longest_input:
            plain.append(plan_plain_row(number, group, limits.context_length))
            continue
        attached = [
            preambles.attach(ids, sequence.scored) for ids, sequence in zip(inputs, group, strict=True)
        ]
        roots, size = _find_roots(attached), _count_nodes(attached)
        sizes[roots].append((-size, number))
        if not roots and size == max(map(len, inputs)):
            chains.add(number)
    rows = [
        Row(
            tuple(sorted(numbers)),
            roots,
            -(-total // limits.multiple) * limits.multiple,
            chain=len(numbers) == 1 and numbers[0] in chains,
        )
        for roots in sorted(sizes)
        for total, numbers in pack(sorted(sizes[roots]), limits.row_tokens)
    ]
    return [*_cut_batches(rows, batch_size), *plan_plain_batches(plain, batch_size)]


def pack(sizes: Iterable[tuple[int, int]], capacity: int) -> list[tuple[int, list[int]]]:
    """Put items, given as (-size, number) from large to small, into the fullest bin that still holds them.

    Returns:
        The filled size and the numbers of each bin, fullest first.

    >>> pack([(-70, 4), (-60, 0), (-40, 1), (-30, 2)], capacity=100)
    [(100, [0, 1]), (100, [4, 2])]
    """
    bins: list[tuple[int, list[int]]] = []
    free: list[tuple[int, int]] = []  # space left and number of each bin, ascending
    for negative_size, number in sizes:
        size = -negative_size
        place = bisect_left(free, (size, -1))
        if place == len(free):
            bins.append((0, []))
            insort(free, (max(capacity - size, 0), len(bins) - 1))
            chosen = len(bins) - 1
        else:
            space, chosen = free.pop(place)
            insort(free, (space - size, chosen))
        bins[chosen] = (bins[chosen][0] + size, [*bins[chosen][1], number])
    return sorted(bins, key=lambda filled: (-filled[0], filled[1]))


def plan_plain_row(number: int, group: Group, context_length: int) -> Row:
    """Return a group whose leaves are computed one by one; its length is that of the longest."""
    longest = max(len(cut_input(sequence, context_length)) for sequence in group)
    return Row((number,), (), longest, plain=True)


def plan_plain_batches(rows: Iterable[Row], batch_size: int) -> list[Batch]:
    """Return plain rows, similar lengths together."""
    ordered = sorted(rows, key=lambda row: (-row.length, row.groups))
    return [tuple(ordered[start : start + batch_size]) for start in range(0, len(ordered), batch_size)]


def find_reading(group: Group, context_length: int) -> tuple[list[int], list[int]]:
    """Return the sequences whose inputs are to be read, and for each sequence its place among them."""
    leaves = find_leaves([cut_input(sequence, context_length) for sequence in group])
    read = sorted(set(leaves))
    return read, [read.index(leaf) for leaf in leaves]


def _find_roots(attached: Sequence[TreeInput]) -> tuple[int, ...]:
    return tuple(sorted({one.root for one in attached} - {NO_PREAMBLE}))


def _count_nodes(attached: Sequence[TreeInput]) -> int:
    by_root: dict[int, list[TreeInput]] = defaultdict(list)
    for one in attached:
        by_root[one.root].append(one)
    return sum(count_nodes([one.token_ids for one in same]) for same in by_root.values())


def _find_shape(row: Row) -> tuple[tuple[int, ...], int, bool]:
    return row.preambles, row.length, row.chain


def _cut_batches(rows: Sequence[Row], batch_size: int) -> list[Batch]:
    """Rows of one batch are equally long: the shape in which a row is computed is its own."""
    batches: list[Batch] = []
    for row in rows:
        last = batches[-1] if batches else ()
        if (
            last
            and len(last) < batch_size
            and (last[0].preambles, last[0].length) == (row.preambles, row.length)
        ):
            batches[-1] = (*last, row)
        else:
            batches.append((row,))
    return batches
