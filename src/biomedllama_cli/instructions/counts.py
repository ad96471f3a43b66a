"""Counts by reason or kind, as people read them."""

from __future__ import annotations

from collections.abc import Mapping


def list_counts(counts: Mapping[str, int]) -> str:
    """Return counts with their snake_case names as words, in the order given.

    >>> list_counts({"too_long": 1200, "empty_answer": 1})
    '1,200 too long, 1 empty answer'
    """
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
