"""Token sequences laid out as a forest: what sequences share from their start stands in a row once.

A row holds the nodes of all trees in depth-first order. Node j is an ancestor of node i, or i itself, exactly when
`j <= i < ends[j]`: one number per node describes the whole attention mask.

Letters: T nodes of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

NO_PREAMBLE = -1
"""Root of a node that continues nothing: its tree starts at position 0."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Tokens of which the last `scored` ids are scored, each given all ids before it.

    Raises:
        ValueError: `scored` leaves nothing to condition on, or nothing to score.
    """

    token_ids: tuple[int, ...]
    scored: int

    def __post_init__(self) -> None:
        if not 0 < self.scored < len(self.token_ids):
            raise ValueError(f"scored must be from 1 to {len(self.token_ids) - 1}, not {self.scored}")


Group = tuple[TokenSequence, ...]
"""What belongs to one question: options, variants, permutations."""


def cut_input(sequence: TokenSequence, context_length: int) -> Ids:
    """Return the ids a model reads: all but the last, without the left end of what is too long.

    >>> cut_input(TokenSequence((5, 6, 7, 8), 1), context_length=2)
    array([6, 7])
    """
    return np.array(sequence.token_ids[-(context_length + 1) : -1], dtype=np.int64)


def find_target_ids(sequence: TokenSequence) -> Ids:
    """Return the scored ids; they follow the last `scored` ids of the input."""
    return np.array(sequence.token_ids[-sequence.scored :], dtype=np.int64)


def build_sort_key(token_ids: Ids) -> bytes:
    """Return bytes that sort as the ids do, prefixes first, and compare much faster."""
    return token_ids.astype(">u4").tobytes()


def read_sort_key(key: bytes) -> Ids:
    """Return the ids of a sort key.

    >>> read_sort_key(build_sort_key(np.array([1, 70000])))
    array([    1, 70000])
    """
    return np.frombuffer(key, dtype=">u4").astype(np.int64)


def count_shared(first_ids: Ids, second_ids: Ids) -> int:
    """Return how many ids two sequences share from the start.

    >>> count_shared(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    shorter = min(len(first_ids), len(second_ids))
    differs = first_ids[:shorter] != second_ids[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


@dataclass(frozen=True, slots=True)
class TokenTree:
    """A row of nodes.

    Attributes:
        token_ids: of each node.
        depths: position of each node in its sequences, what comes before the row included.
        ends: one past the last descendant of each node.
        roots: number of the preamble each node continues, or NO_PREAMBLE.
        paths: for each input, its nodes from the root on.
    """

    token_ids: Ids
    depths: Ids
    ends: Ids
    roots: Ids
    paths: tuple[Ids, ...]


@dataclass(frozen=True, slots=True)
class TreeInput:
    """One input of a tree: the ids after its preamble, how many ids that has, and its number."""

    token_ids: Ids
    offset: int = 0
    root: int = NO_PREAMBLE


def build_tree(inputs: Sequence[TreeInput]) -> TokenTree:
    """Lay inputs out as a forest with one tree per root and first token, in sorted order.

    >>> tree = build_tree([TreeInput(np.array(ids)) for ids in ([7, 8, 9], [7, 8, 5, 6], [7])])
    >>> tree.token_ids.tolist(), tree.depths.tolist(), tree.ends.tolist()
    ([7, 8, 5, 6, 9], [0, 1, 2, 3, 2], [5, 5, 4, 4, 5])
    >>> [path.tolist() for path in tree.paths]
    [[0, 1, 4], [0, 1, 2, 3], [0]]
    """
    order = sorted(range(len(inputs)), key=lambda place: (inputs[place].root, _key(inputs[place])))
    pieces: list[Ids] = []
    depths: list[Ids] = []
    roots: list[Ids] = []
    ends = np.zeros(sum(len(one.token_ids) for one in inputs), dtype=np.int64)
    paths: dict[int, Ids] = {}
    size = 0
    before: TreeInput | None = None
    path = np.zeros(0, dtype=np.int64)
    for place in order:
        one = inputs[place]
        shared = 0
        if before is not None and before.root == one.root:
            shared = count_shared(before.token_ids, one.token_ids)
        ends[path[shared:]] = size
        new = len(one.token_ids) - shared
        pieces.append(one.token_ids[shared:])
        depths.append(one.offset + np.arange(shared, shared + new))
        roots.append(np.full(new, one.root, dtype=np.int64))
        path = np.concatenate((path[:shared], np.arange(size, size + new)))
        paths[place] = path
        size += new
        before = one
    ends[path] = size
    return TokenTree(
        _join(pieces),
        _join(depths),
        ends[:size],
        _join(roots),
        tuple(paths[place] for place in range(len(inputs))),
    )


def count_nodes(inputs: Sequence[Ids]) -> int:
    """Return the size of the forest of these inputs, without building it.

    >>> count_nodes([np.array([7, 8, 9]), np.array([7, 8, 5, 6]), np.array([7])])
    5
    """
    total = 0
    before = np.zeros(0, dtype=np.int64)
    for ids in sorted(inputs, key=build_sort_key):
        total += len(ids) - count_shared(before, ids)
        before = ids
    return total


def find_leaves(inputs: Sequence[Ids]) -> list[int]:
    """Return for each input the longest one that it is a prefix of, which may be itself.

    A causal model that reads the leaves has answered for all inputs.

    >>> find_leaves([np.array([7]), np.array([7, 8]), np.array([7, 8]), np.array([9])])
    [2, 2, 2, 3]
    """
    order = sorted(range(len(inputs)), key=lambda place: (build_sort_key(inputs[place]), place))
    leaves = list(range(len(inputs)))
    for place, after in reversed(list(pairwise(order))):
        if count_shared(inputs[place], inputs[after]) == len(inputs[place]):
            leaves[place] = leaves[after]
    return leaves


def _key(one: TreeInput) -> bytes:
    return build_sort_key(one.token_ids)


def _join(pieces: list[Any]) -> Ids:
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
