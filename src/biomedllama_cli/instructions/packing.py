"""Which examples share a row, and which rows one forward pass takes.

Best-fit decreasing finds how few rows of a given capacity hold some examples; spreading them over the rows that are
computed anyway makes these equally long, so that neither padding nor a waiting rank is left.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

Pack = list[int]
"""Numbers of the examples in one row, in the order they stand in it; an empty one is a row without targets."""

LEAST_SHARE = 0.97
"""Of the positions that the best row length takes, to those that a shorter one may take (a fraction)."""

_MORE_FORWARDS = 1.1  # than whole rows need: with sharded weights, every forward pass gathers them anew
MOST_PARTS = 8  # of the capacity: rows shorter than an eighth save next to nothing


def pack(lengths: Sequence[int], capacity: int) -> list[Pack]:
    """Put examples into few rows by best-fit decreasing.

    The longest comes first, and each goes into the fullest row that has room; among equals the lower number comes
    first. At most 11/9 of the least possible rows, + 4 (Johnson et al., SIAM J. Comput. 3, 1974). O(n log n)
    comparisons.

    Args:
        lengths: of the examples (in tokens).
        capacity: of a row (in tokens).

    Raises:
        ValueError: a length is not between 1 and the capacity.

    >>> pack([3, 6, 2, 5], capacity=8)
    [[1, 2], [3, 0]]
    """
    if len(lengths) and not 1 <= min(lengths) <= max(lengths) <= capacity:
        raise ValueError(f"lengths {min(lengths)} to {max(lengths)} do not fit rows of {capacity} tokens")
    packs: list[Pack] = []
    spaces: list[int] = []  # rooms that rows have left, sorted, each once
    rows_with: dict[int, list[int]] = {}
    for example in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        place = bisect_left(spaces, lengths[example])
        if place == len(spaces):
            row, space = len(packs), capacity
            packs.append([])
        else:
            space = spaces[place]
            row = rows_with[space].pop()
            if not rows_with[space]:
                del spaces[place], rows_with[space]
        packs[row].append(example)
        space -= lengths[example]
        if space not in rows_with:
            insort(spaces, space)
            rows_with[space] = []
        rows_with[space].append(row)
    return packs


def spread(lengths: Sequence[int], rows: int, capacity: int) -> list[Pack]:
    """Put examples into at most `rows` rows whose longest is as short as can be.

    MULTIFIT (Coffman, Garey and Johnson, SIAM J. Comput. 7, 1978): a binary search for the least capacity with which
    packing still needs no more rows.

    Args:
        lengths: of the examples (in tokens).
        rows: at least as many as `pack` needs with this capacity.
        capacity: of a row (in tokens).

    >>> spread([3, 6, 2, 5], rows=3, capacity=16)
    [[1], [3], [0, 2]]
    """
    best = pack(lengths, capacity)
    low, high = max([-(-sum(lengths) // rows), *lengths]), capacity
    while low < high:
        middle = (low + high) // 2
        packs = pack(lengths, middle)
        if len(packs) <= rows:
            best, high = packs, middle
        else:
            low = middle + 1
    return best


def lay_out(
    lengths: Sequence[int], *, capacity: int, rows_at_once: int, ranks: int, packing: bool = True
) -> list[list[list[Pack]]]:
    """Return every rank's micro-batches of one step, [rank][micro-batch][row].

    All ranks have equally many; where examples do not suffice, the last are one empty row. A micro-batch has rows of
    similar lengths and never more than `rows_at_once * capacity` positions; those of the same number are similar on all
    ranks, the largest first. Packed rows take a part of the capacity, down to an eighth, and more of them, where that
    costs few positions and forward passes: attention with a mask costs the square of a row's length.

    Args:
        lengths: of the step's examples (in tokens).
        capacity: longest row (in tokens).
        rows_at_once: rows of full length that one rank forwards at once.
        ranks: that share the step.
        packing: put several examples into one row.
    """
    if not packing:
        singles = [[example] for example in range(len(lengths))]
        return _deal(lengths, singles, rows_at_once, ranks)
    longest = max(lengths, default=1)
    layouts = [
        _deal_packed(lengths, capacity // parts, rows_at_once * parts, ranks)
        for parts in range(MOST_PARTS, 0, -1)
        if longest * parts <= capacity
    ]
    most = _MORE_FORWARDS * len(layouts[-1][0])
    layouts = [layout for layout in layouts if len(layout[0]) <= most]
    costs = [count_positions(lengths, layout) for layout in layouts]
    return next(
        layout for layout, cost in zip(layouts, costs, strict=True) if cost * LEAST_SHARE <= min(costs)
    )


def count_positions(lengths: Sequence[int], layout: Sequence[Sequence[Sequence[Pack]]]) -> int:
    """Return the positions that a layout takes the time of, over all ranks.

    Each micro-batch is cut to its longest row, and all ranks wait for the one with most positions.

    >>> count_positions([3, 6, 2, 5], [[[[1, 2], [3, 0]]], [[[]]]])
    32
    """
    rounds = zip(*layout, strict=True)
    return len(layout) * sum(max(_positions(lengths, rows) for rows in of_all) for of_all in rounds)


def _positions(lengths: Sequence[int], rows: Sequence[Pack]) -> int:
    return len(rows) * max(1, *(sum(lengths[example] for example in row) for row in rows))


def _deal_packed(
    lengths: Sequence[int], capacity: int, rows_at_once: int, ranks: int
) -> list[list[list[Pack]]]:
    at_once = rows_at_once * ranks
    rounds = max(1, -(-len(pack(lengths, capacity)) // at_once))
    return _deal(lengths, spread(lengths, rounds * at_once, capacity), rows_at_once, ranks)


def _deal(
    lengths: Sequence[int], packs: Sequence[Pack], rows_at_once: int, ranks: int
) -> list[list[list[Pack]]]:
    """Give packs out, the longest first: to micro-batches one after the other, and these to the ranks in turn."""
    longest_first = sorted(packs, key=lambda row: -sum(lengths[example] for example in row))
    micro_batches = [
        longest_first[first : first + rows_at_once] for first in range(0, len(longest_first), rows_at_once)
    ]
    rounds = max(1, -(-len(micro_batches) // ranks))
    micro_batches += [[[]] for _ in range(rounds * ranks - len(micro_batches))]
    return [micro_batches[rank::ranks] for rank in range(ranks)]
