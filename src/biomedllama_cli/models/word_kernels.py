"""Cutting, looking up and writing out words on UTF-8 bytes, in compiled code (numba)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from biomedllama_cli.models.merge_kernel import LONGEST_WORD, hash_bytes

IntArray = npt.NDArray[Any]
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


class Batch(NamedTuple):
    """Texts, and the words found in them.

    Attributes:
        data: UTF-8 of all texts, end to end.
        text_ends: where each text ends in `data`.
        rule: see `_find_end`.
        words: entry of each word; -1 - i for the i-th word that is too long to be kept.
        word_ends: number of words up to the end of each text.
        loose: start and end in `data` of the words too long to be kept.
    """

    data: IntArray
    text_ends: IntArray
    rule: IntArray
    words: IntArray
    word_ends: IntArray
    loose: IntArray


class Loose(NamedTuple):
    """Ids of the words that are too long to be kept: where each one's end, after a 0, and all end to end."""

    ends: IntArray
    ids: IntArray


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _whitespace_before(data: Any, place: int, start: int) -> Any:
    """Tell whether the character that ends before `place` is white space (Unicode's White_Space, and more)."""
    last = data[place - 1]
    if last < 128:
        return bool(last == 32 or 9 <= last <= 13 or 28 <= last <= 31)
    if place - start >= 2 and data[place - 2] == 0xC2:
        return bool(last == 0x85 or last == 0xA0)
    if place - start < 3:
        return False
    first, second = data[place - 3], data[place - 2]
    if first == 0xE2 and second == 0x80:
        return bool(last <= 0x8B or last == 0xA8 or last == 0xA9 or last == 0xAF)
    if first == 0xE1:
        return bool(second == 0x9A and last == 0x80)
    return bool(
        (first == 0xE2 and second == 0x81 and last == 0x9F)
        or (first == 0xE3 and second == 0x80 and last == 0x80)
    )


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _begins_with_whitespace(data: Any, place: int, end: int) -> Any:
    """Tell whether the character at `place` is white space."""
    first = data[place]
    if first < 128:
        return _whitespace_before(data, place + 1, place)
    size = 2 if first < 0xE0 else 3
    return place + size <= end and first < 0xF0 and _whitespace_before(data, place + size, place)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find_end(data: Any, start: int, end: int, rule: Any) -> Any:
    """Return where the word that starts at `start` ends.

    `rule` says, for each byte, what it is to the cut: 1 a space, 2 a character that begins a word (SentencePiece's
    newline), 3 a newline that ends one when no white space follows. With rule[256] a space begins a word only when
    no white space of any kind is before it; else when no other space is.
    """
    for place in range(start + 1, end):
        kind = rule[data[place]]
        if kind == 1:
            if rule[256]:
                if not _whitespace_before(data, place, start):
                    return place
            elif data[place - 1] != 32:
                return place
        elif kind == 2 or (rule[data[place - 1]] == 3 and not _begins_with_whitespace(data, place, end)):
            return place
    return end


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find_entry(data: Any, start: Any, end: Any, table: Any) -> Any:
    """Return the entry of a word, a new one for a new word, or -1 where that has no room."""
    size = end - start
    code = hash_bytes(data, start, end)
    mask = np.uint64(len(table.slots) - 1)
    slot = code & mask
    while table.slots[slot] != 0:
        if (table.slots[slot] ^ code) >> _HALF == 0:
            entry = np.int64(table.slots[slot] & _LOW) - 1
            first = table.entries[entry, 0]
            same = table.entries[entry, 1] == size
            for place in range(size if same else 0):
                if table.keys[first + place] != data[start + place]:
                    same = False
                    break
            if same:
                return entry
        slot = (slot + np.uint64(1)) & mask
    entry, first = table.used[0], table.used[1]
    if entry == len(table.entries) or first + size > len(table.keys):
        return -1
    for place in range(size):
        table.keys[first + place] = data[start + place]
    table.entries[entry, 0], table.entries[entry, 1] = first, size
    table.used[0] += 1
    table.used[1] += size
    table.slots[slot] = (code >> _HALF << _HALF) | np.uint64(entry + 1)
    return np.int64(entry)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def find_words(batch: Any, table: Any, start: Any) -> Any:
    """Cut texts into words and look each up, from byte `start` on, as far as there is room.

    Returns:
        the first byte that was not looked at, and the number of words too long to be kept.
    """
    count = long = text = 0
    while text < len(batch.text_ends) and batch.text_ends[text] <= start:
        batch.word_ends[text] = 0
        text += 1
    while text < len(batch.text_ends):
        while start < batch.text_ends[text]:
            end = _find_end(batch.data, start, batch.text_ends[text], batch.rule)
            entry = -1
            if end - start > LONGEST_WORD:
                batch.loose[long, 0], batch.loose[long, 1] = start, end
                long += 1
                entry = -long
            else:
                entry = _find_entry(batch.data, start, end, table)
                if entry < 0:
                    batch.word_ends[text:] = count
                    return start, long
            batch.words[count] = entry
            count += 1
            start = end
        batch.word_ends[text] = count
        text += 1
    return start, long


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_ids(batch: Any, table: Any, loose: Any, text_ids: Any) -> Any:
    """Return the number of ids of all words found, and add that of each text to `text_ids`."""
    total = word = 0
    for text in range(len(batch.word_ends)):
        before = total
        while word < batch.word_ends[text]:
            entry = batch.words[word]
            if entry >= 0:
                total += table.entries[entry, 3] - table.entries[entry, 2]
            else:
                total += loose.ends[-entry] - loose.ends[-1 - entry]
            word += 1
        text_ids[text] += total - before
    return total


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def write_ids(batch: Any, table: Any, ids: Any, loose: Any, out: Any) -> None:
    """Write the ids of every word found end to end into `out`; `ids` are those of the table's entries."""
    written = 0
    for word in range(batch.word_ends[-1]):
        entry = batch.words[word]
        if entry >= 0:
            for place in range(table.entries[entry, 2], table.entries[entry, 3]):
                out[written] = ids[place]
                written += 1
        else:
            for place in range(loose.ends[-1 - entry], loose.ends[-entry]):
                out[written] = loose.ids[place]
                written += 1
