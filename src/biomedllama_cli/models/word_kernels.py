"""Cutting, looking up and writing out words on UTF-8 bytes, in compiled code (numba)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from biomedllama_cli.models.merge_kernel import LONGEST_WORD, hash_bytes

IntArray = npt.NDArray[Any]
_RUN = 256
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


class Batch(NamedTuple):
    """Texts, and the words found in them.

    Attributes:
        data: UTF-8 of all texts, end to end.
        text_ends: where each text ends in `data`.
        rule: see `_read_word`.
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
def _read_word(data: Any, start: Any, end: Any, rule: Any) -> Any:
    """Return where the word that starts at `start` ends, and its first and next eight bytes as numbers.

    `rule` says, for each byte, what it is to the cut: 1 a space, 2 a character that begins a word (SentencePiece's
    newline), 3 a newline that ends one when no white space follows. With rule[256] a space begins a word only when
    no white space of any kind is before it; else when no other space is.
    """
    low, high = np.uint64(data[start]), np.uint64(0)
    previous = rule[data[start]]
    for place in range(start + 1, end):
        byte = data[place]
        kind = rule[byte]
        if kind | previous:
            if kind == 1:
                if rule[256]:
                    if not _whitespace_before(data, place, start):
                        return place, low, high
                elif previous != 1:
                    return place, low, high
            elif kind == 2 or (previous == 3 and not _begins_with_whitespace(data, place, end)):
                return place, low, high
        previous = kind
        size = place - start
        if size < 8:
            low |= np.uint64(byte) << np.uint64(8 * size)
        elif size < 16:
            high |= np.uint64(byte) << np.uint64(8 * size - 64)
    return end, low, high


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find_entry(data: Any, word: Any, table: Any) -> Any:
    """Return the entry of a word (start, end, first bytes, hash), a new one for a new word, or -1 without room."""
    start, end, low, high, code = word
    size = end - start
    mask = np.uint64(len(table.slots) - 1)
    slot = code & mask
    while table.slots[slot] != 0:
        if (table.slots[slot] ^ code) >> _HALF == 0:
            entry = np.int64(table.slots[slot] & _LOW) - 1
            record = table.entries[entry]
            same = record.low == low and record.high == high and record.size == size
            for place in range(16, size if same else 0):
                if table.keys[record.start + place] != data[start + place]:
                    same = False
                    break
            if same:
                return entry
        slot = (slot + np.uint64(1)) & mask
    entry, first = table.used[0], table.used[1]
    if entry == len(table.entries) or first + size > len(table.keys):
        return np.int64(-1)
    for place in range(size):
        table.keys[first + place] = data[start + place]
    record = table.entries[entry]
    record.low, record.high, record.start, record.size = low, high, first, size
    table.used[0] += 1
    table.used[1] += size
    table.slots[slot] = (code >> _HALF << _HALF) | np.uint64(entry + 1)
    return np.int64(entry)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hash_word(data: Any, start: Any, end: Any, low: Any, high: Any) -> Any:
    """Return the 64-bit hash of a word."""
    code = _mix(_mix(low ^ np.uint64(end - start)) ^ high)
    return _mix(code ^ hash_bytes(data, start + 16, end)) if end - start > 16 else code


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _touch(table: Any, codes: Any, count: Any) -> Any:
    """Read what the look-up of these hashes will read, and return a number made of it.

    Without a branch in between, the processor waits for many of these reads at once; in the look-up it would wait
    for one after the other. Half of the look-up's time was that.
    """
    mask = np.uint64(len(table.slots) - 1)
    heads = np.empty(_RUN, np.int64)
    for i in range(count):
        heads[i] = np.int64(table.slots[codes[i] & mask] & _LOW)
    touched = np.uint64(0)
    for i in range(count):
        touched ^= table.entries[max(heads[i] - 1, 0)].low
    return touched


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mix(code: Any) -> Any:
    """Return a number whose every bit depends on all of `code` (the finish of splitmix64)."""
    code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return code ^ (code >> np.uint64(31))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def find_words(batch: Any, table: Any, start: Any) -> Any:
    """Cut texts into words and look each up, from byte `start` on, as far as there is room.

    Returns:
        the first byte that was not looked at, the number of words too long to be kept, and a number of no meaning.
    """
    ends = np.empty(_RUN, np.int64)
    lows, highs, codes = np.empty(_RUN, np.uint64), np.empty(_RUN, np.uint64), np.empty(_RUN, np.uint64)
    count = long = text = 0
    touched = np.uint64(0)
    while text < len(batch.text_ends):
        text_end = batch.text_ends[text]
        found, place = 0, start
        while found < _RUN and place < text_end:
            end, low, high = _read_word(batch.data, place, text_end, batch.rule)
            codes[found] = _hash_word(batch.data, place, end, low, high)
            lows[found], highs[found], ends[found] = low, high, end
            place = end
            found += 1
        touched ^= _touch(table, codes, found)
        for i in range(found):
            if ends[i] - start > LONGEST_WORD:
                batch.loose[long, 0], batch.loose[long, 1] = start, ends[i]
                long += 1
                entry = np.int64(-long)
            else:
                entry = _find_entry(batch.data, (start, ends[i], lows[i], highs[i], codes[i]), table)
                if entry < 0:
                    batch.word_ends[text:] = count
                    return start, long, touched
            batch.words[count] = entry
            count += 1
            start = ends[i]
        if start >= text_end:
            batch.word_ends[text] = count
            text += 1
    return start, long, touched


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_ids(batch: Any, table: Any, loose: Any, text_ids: Any) -> Any:
    """Return the number of ids of all words found, and add that of each text to `text_ids`."""
    total = word = 0
    for text in range(len(batch.word_ends)):
        before = total
        while word < batch.word_ends[text]:
            entry = batch.words[word]
            if entry >= 0:
                total += table.entries[entry].end - table.entries[entry].begin
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
            for place in range(table.entries[entry].begin, table.entries[entry].end):
                out[written] = ids[place]
                written += 1
        else:
            for place in range(loose.ends[-1 - entry], loose.ends[-entry]):
                out[written] = loose.ids[place]
                written += 1
