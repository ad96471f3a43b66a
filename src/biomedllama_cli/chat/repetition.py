"""Replies that say the same over and over."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_PERIOD = 128
REPEATS = 4
LOOP_TOKENS = 64
"""A block repeated at least four times, over at least this many tokens, is a loop."""
SHORT_PERIOD = 4
SHORT_LOOP_TOKENS = 128
"""A block of few tokens has to go on for longer: rules of dashes, rows of a table and `CAGCAGCAG` are no loops."""


def find_loop(new_ids: Sequence[int]) -> int | None:
    """Return how many ids to keep where a reply's end repeats itself, one copy included, or None where it does not.

    Args:
        new_ids: of the reply, asked after every new one.

    >>> find_loop([7, 8, 9] + [1, 2, 3, 4, 5] * 13)
    8
    >>> find_loop([1, 2, 3, 4, 5] * 12) is None  # too short a stretch
    True
    """
    ids = list(new_ids[-max(LONGEST_PERIOD * REPEATS, SHORT_LOOP_TOKENS) :])
    for period in range(1, min(LONGEST_PERIOD, len(ids) // REPEATS) + 1):
        if ids[-1] != ids[-1 - period]:
            continue
        covered = max(REPEATS * period, SHORT_LOOP_TOKENS if period <= SHORT_PERIOD else LOOP_TOKENS)
        if covered <= len(ids) and ids[-covered:-period] == ids[period - covered :]:
            return _find_start(new_ids, period) + period
    return None


def _find_start(new_ids: Sequence[int], period: int) -> int:
    start = len(new_ids) - period
    while start > 0 and new_ids[start - 1] == new_ids[start - 1 + period]:
        start -= 1
    return start
