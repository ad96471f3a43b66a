"""Llama-3's and Qwen's first cut of a text, for words of printable ASCII, in compiled code (numba).

There the classes of the regular expression are plain: letters, digits, and everything else.
"""

from __future__ import annotations

from typing import Any

from numba import njit


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_letter(byte: Any) -> Any:
    return bool(65 <= byte <= 90 or 97 <= byte <= 122)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_other(byte: Any) -> Any:
    return not _is_letter(byte) and not 48 <= byte <= 57


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _match_contraction(keys: Any, start: Any, end: Any) -> Any:
    """Return the length of 's, 't, 'm, 'd, 're, 've or 'll at `start`, or 0."""
    if keys[start] != 39 or start + 1 >= end:
        return 0
    first = keys[start + 1] | 32
    if first in (115, 116, 109, 100) and _is_letter(keys[start + 1]):
        return 2
    if start + 2 < end and _is_letter(keys[start + 1]) and _is_letter(keys[start + 2]):
        second = keys[start + 2] | 32
        if (first in (114, 118) and second == 101) or (first == 108 and second == 108):
            return 3
    return 0


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def find_part_end(keys: Any, start: Any, end: Any, digits: Any) -> Any:
    """Return where the part at `start` ends, by Llama-3's expression for printable ASCII after one space at most."""
    matched = _match_contraction(keys, start, end)
    if matched:
        return start + matched
    place = start + 1 if _is_other(keys[start]) and start + 1 < end and _is_letter(keys[start + 1]) else start
    if _is_letter(keys[place]):
        while place < end and _is_letter(keys[place]):
            place += 1
        return place
    if not _is_other(keys[start]):
        while (
            place < end
            and place - start < digits
            and not _is_other(keys[place])
            and not _is_letter(keys[place])
        ):
            place += 1
        return place
    place = start + 1
    if keys[start] == 32 and (place == end or not _is_other(keys[place])):
        return place
    while place < end and _is_other(keys[place]):
        place += 1
    return place


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def is_plain(keys: Any, start: Any, end: Any, refused: Any) -> Any:
    """Tell whether a word is printable ASCII, with one space before it at most."""
    for place in range(start + 1 if keys[start] == 32 else start, end):
        if keys[place] < 33 or keys[place] > 126 or refused[keys[place]]:
            return False
    return True
