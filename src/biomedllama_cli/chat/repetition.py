"""Replies that say the same over and over."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_PERIOD = 128
REPEATS = 4
LOOP_TOKENS = 64
"""A block repeated at least four times, over at least this many tokens, is a loop."""
FEW_TOKENS = 8
PLAIN_LOOP_TOKENS = 128
"""A block of fewer different tokens than eight has to go on for longer: rules of dashes, empty rows of a table, zeros
of a matrix and `CAGCAGCAG` are no loops."""


def find_loop(new_ids: Sequence[int]) -> int | None:
    """Return how many ids to keep where a reply's end repeats itself, one copy included, or None where it does not.

    Args:
        new_ids: of the reply, asked after every new one.

    >>> sentence = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    >>> find_loop([50, 60, 70] + sentence * 8)
    12
    >>> find_loop([50, 60, 70] + sentence * 7) is None  # too short a stretch
    True
    """
    ids = list(new_ids[-LONGEST_PERIOD * REPEATS :])
    for period in range(1, min(LONGEST_PERIOD, len(ids) // REPEATS) + 1):
        if ids[-1] != ids[-1 - period]:
            continue
        plain = len(set(ids[-period:])) < FEW_TOKENS
        covered = max(REPEATS * period, PLAIN_LOOP_TOKENS if plain else LOOP_TOKENS)
        if covered <= len(ids) and ids[-covered:-period] == ids[period - covered :]:
            return _find_start(new_ids, period) + period
    return None


def _find_start(new_ids: Sequence[int], period: int) -> int:
    """Return where the stretch begins that repeats with this period."""
    start = len(new_ids) - period
    while start > 0 and new_ids[start - 1] == new_ids[start - 1 + period]:
        start -= 1
    return start
