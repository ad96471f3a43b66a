"""Preambles: token prefixes of many groups, such as few-shot examples that are the same for all questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from biomedllama_cli.evaluation.token_trees import (
    NO_PREAMBLE,
    Group,
    Ids,
    TreeInput,
    build_sort_key,
    count_shared,
    cut_input,
    read_sort_key,
)

SHORTEST = 32
"""Tokens of the shortest preamble; below, a call of the model costs more than it saves."""

SMALLEST_SAVING = 256
"""Tokens that a preamble must save over all groups: rows hold groups of one preamble only, and so lie emptier."""


class Preambles:
    """Chosen preambles, and which of them an input continues."""

    def __init__(self, chosen: Iterable[Ids]) -> None:
        self.token_ids: tuple[Ids, ...] = tuple(chosen)
        self._by_start: dict[bytes, list[int]] = defaultdict(list)
        self._start = min([SHORTEST, *map(len, self.token_ids)])
        longest_first = sorted(range(len(self.token_ids)), key=lambda number: -len(self.token_ids[number]))
        for number in longest_first:
            self._by_start[self.token_ids[number][: self._start].tobytes()].append(number)

    def attach(self, input_ids: Ids, scored: int) -> TreeInput:
        """Return an input as what follows the longest of its preambles before all scored positions."""
        for number in self._by_start.get(input_ids[: self._start].tobytes(), ()):
            preamble_ids = self.token_ids[number]
            length = len(preamble_ids)
            if length <= len(input_ids) - scored and np.array_equal(input_ids[:length], preamble_ids):
                return TreeInput(input_ids[length:], length, number)
        return TreeInput(input_ids, 0, NO_PREAMBLE)


@dataclass(slots=True)
class _Prefix:
    """A prefix of some contexts, while the sorted contexts are read."""

    token_ids: Ids
    groups: set[int]
    saving: int = 0
    chosen: list[Ids] = field(default_factory=list)

    def adopt(self, child: _Prefix) -> None:
        """Take a longer prefix, all of whose contexts have been seen, into this one."""
        self.groups |= child.groups
        own = (len(child.groups) - 1) * len(child.token_ids)
        if len(child.token_ids) >= SHORTEST and own >= max(SMALLEST_SAVING, child.saving):
            self.saving += own
            self.chosen.append(child.token_ids)
        else:
            self.saving += child.saving
            self.chosen += child.chosen


def choose_preambles(groups: Sequence[Group], context_length: int) -> Preambles:
    """Choose the prefixes whose single computation saves most tokens.

    Of nested prefixes either the shorter one is taken or those below it, whichever saves more:
    saving = max((groups that have it - 1) x its length, sum over the longer prefixes below it).
    Inputs that lost their left end take no part.
    """
    contexts: set[tuple[bytes, int]] = set()
    for number, group in enumerate(groups):
        for sequence in group:
            if len(sequence.token_ids) <= context_length + 1:
                input_ids = cut_input(sequence, context_length)
                context_ids = input_ids[: len(input_ids) - sequence.scored]
                contexts.add((build_sort_key(context_ids), number))
    path = [_Prefix(np.zeros(0, dtype=np.int64), set())]
    before = path[0].token_ids
    for key, number in sorted(contexts):
        ids = read_sort_key(key)
        shared = count_shared(before, ids)
        _close(path, shared)
        if len(ids) == len(path[-1].token_ids):
            path[-1].groups.add(number)
        else:
            path.append(_Prefix(ids, {number}))
        before = ids
    _close(path, 0)
    return Preambles(path[0].chosen)


def _close(path: list[_Prefix], depth: int) -> None:
    """Shorten a path of nested prefixes to `depth` tokens, where it then has a prefix of exactly that length."""
    while len(path[-1].token_ids) > depth:
        child = path.pop()
        if len(path[-1].token_ids) < depth:
            path.append(_Prefix(child.token_ids[:depth], set()))
        path[-1].adopt(child)
