"""Byte-pair merging of single words in compiled code (numba).

Merging is the same for SentencePiece and for `tokenizers`: of all neighbouring pairs whose join is in the
vocabulary the best ranked is joined, the leftmost among equals, until none is left. Words are short, so the plain
loop over the pairs is faster than a queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from biomedllama_cli.models.part_kernel import find_part_end, is_plain

_NEVER = np.int32(2**31 - 1)
LONGEST_WORD = 256
"""Bytes of the longest word the kernel takes."""


ENTRY = np.dtype(
    [("low", "u8"), ("high", "u8"), ("start", "i4"), ("size", "i4"), ("begin", "i4"), ("end", "i4")]
)
"""One word: its first and next eight bytes, where all of them start in the keys and how many they are, and where
its ids begin and end. Together, because each look at memory is a miss of the processor's cache."""


class Table(NamedTuple):
    """Words in memory.

    Attributes:
        slots: open hash table of entry numbers plus one, in the low half, and hashes, in the high half.
        entries: of type ENTRY, one for each word.
        keys: bytes of all words.
        used: number of entries and of bytes of words.
    """

    slots: npt.NDArray[np.uint64]
    entries: npt.NDArray[Any]
    keys: npt.NDArray[np.uint8]
    used: npt.NDArray[np.int64]


def build_table(max_words: int, key_bytes: int) -> Table:
    """Return a table without words."""
    slots = np.zeros(1 << (2 * max_words - 1).bit_length(), np.uint64)
    return Table(slots, np.zeros(max_words, ENTRY), np.zeros(key_bytes, np.uint8), np.zeros(2, np.int64))


class MergeTables(NamedTuple):
    """A vocabulary as arrays.

    Attributes:
        symbols: id of the piece that is one character, by code point, or -1; for byte-level vocabularies by byte.
        byte_ids: id of the piece for each byte of a character that has no piece.
        pairs: open hash table of pairs: left id * 2**32 + right id + 1, or 0.
        joined: id and rank of each pair's join; shape [slots, 2].
        digits: longest run of digits in a part, for byte-level vocabularies; 0 for SentencePiece, which has no parts.
        refused: 1 for each byte that a word left to the library has in it.
        refused_parts: open hash table of the hashes of parts that merging would not encode as the library does.
    """

    symbols: npt.NDArray[np.int32]
    byte_ids: npt.NDArray[np.int32]
    pairs: npt.NDArray[np.uint64]
    joined: npt.NDArray[np.int32]
    digits: int
    refused: npt.NDArray[np.uint8]
    refused_parts: npt.NDArray[np.uint64]


def build_tables(
    symbols: npt.NDArray[np.int32],
    byte_ids: npt.NDArray[np.int32],
    merges: Iterable[tuple[int, int, int, int]],
    *,
    digits: int = 0,
    refused: Iterable[int] = (),
) -> MergeTables:
    """Return the tables of a vocabulary; merges are (left id, right id, joined id, rank)."""
    refused_bytes = np.zeros(256, np.uint8)
    refused_bytes[list(refused)] = 1
    rows = np.array(list(merges), np.int64).reshape(-1, 4)
    slots = 1 << max(4, (2 * len(rows)).bit_length())
    pairs, joined = np.zeros(slots, np.uint64), np.zeros((slots, 2), np.int32)
    _insert(rows, pairs, joined)
    return MergeTables(symbols, byte_ids, pairs, joined, digits, refused_bytes, np.zeros(2, np.uint64))


def refuse_parts(tables: MergeTables, parts: Sequence[bytes]) -> MergeTables:
    """Return the tables with parts that are left to the library."""
    slots = np.zeros(1 << max(1, (2 * len(parts)).bit_length()), np.uint64)
    for part in parts:
        code = hash_bytes(np.frombuffer(part, np.uint8), 0, len(part))
        slot = int(code) & (len(slots) - 1)
        while slots[slot] not in (0, code):
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot] = code
    return tables._replace(refused_parts=slots)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def hash_bytes(data: Any, start: Any, end: Any) -> Any:
    """Return the 64-bit hash of some bytes (FNV-1a, its halves folded), never 0."""
    code = np.uint64(14695981039346656037)
    for place in range(start, end):
        code = (code ^ np.uint64(data[place])) * np.uint64(1099511628211)
    return (code ^ (code >> np.uint64(32))) | np.uint64(1 << 63)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_refused_part(keys: Any, start: Any, end: Any, refused: Any) -> Any:
    code = hash_bytes(keys, start, end)
    mask = np.uint64(len(refused) - 1)
    slot = code & mask
    while refused[slot] != 0:
        if refused[slot] == code:
            return True
        slot = (slot + np.uint64(1)) & mask
    return False


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hash_pair(key: Any) -> Any:
    return (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _insert(rows: Any, pairs: Any, joined: Any) -> None:
    mask = np.uint64(len(pairs) - 1)
    for row in range(len(rows)):
        key = (np.uint64(rows[row, 0]) << np.uint64(32)) + np.uint64(rows[row, 1] + 1)
        slot = _hash_pair(key) & mask
        while pairs[slot] != 0 and pairs[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if pairs[slot] == 0:
            pairs[slot] = key
            joined[slot, 0], joined[slot, 1] = rows[row, 2], rows[row, 3]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find_pair(merges: Any, left: Any, right: Any) -> Any:
    """Return the slot of a pair, or -1."""
    if left < 0 or right < 0:
        return -1
    mask = np.uint64(len(merges.pairs) - 1)
    key = (np.uint64(left) << np.uint64(32)) + np.uint64(right + 1)
    slot = _hash_pair(key) & mask
    while merges.pairs[slot] != 0:
        if merges.pairs[slot] == key:
            return np.int64(slot)
        slot = (slot + np.uint64(1)) & mask
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _read_symbols(keys: Any, start: Any, end: Any, merges: Any, symbols: Any) -> Any:
    """Put the ids of a part's characters into `symbols`; a character without a piece is -1 - its place."""
    count = 0
    place = start
    while place < end:
        byte = np.int64(keys[place])
        size = 1
        code = byte
        if merges.digits == 0 and byte >= 128:
            size = 2 if byte < 0xE0 else (3 if byte < 0xF0 else 4)
            code = byte & (0x7F >> size)
            for extra in range(1, size):
                code = (code << 6) | (np.int64(keys[place + extra]) & 0x3F)
        piece = merges.symbols[code]
        symbols[count] = piece if piece >= 0 else -1 - place
        count += 1
        place += size
    return count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _merge(symbols: Any, count: Any, merges: Any, ranks: Any) -> Any:
    """Join the symbols of a part in place and return how many are left."""
    for i in range(count - 1):
        slot = _find_pair(merges, symbols[i], symbols[i + 1])
        ranks[i] = merges.joined[slot, 1] if slot >= 0 else _NEVER
    while count > 1:
        best = 0
        for i in range(1, count - 1):
            if ranks[i] < ranks[best]:
                best = i
        if ranks[best] == _NEVER:
            break
        slot = _find_pair(merges, symbols[best], symbols[best + 1])
        symbols[best] = merges.joined[slot, 0]
        count -= 1
        for i in range(best + 1, count):
            symbols[i] = symbols[i + 1]
            ranks[i - 1] = ranks[i]
        for i in range(max(0, best - 1), min(best + 1, count - 1)):
            slot = _find_pair(merges, symbols[i], symbols[i + 1])
            ranks[i] = merges.joined[slot, 1] if slot >= 0 else _NEVER
    return count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _write_symbol(symbol: Any, keys: Any, end: Any, byte_ids: Any, ids: Any) -> Any:
    """Write a symbol's id, or those of its bytes, and return how many."""
    if symbol >= 0:
        ids[0] = symbol
        return 1
    place = -1 - symbol
    count = 0
    while count == 0 or (place < end and keys[place] & 0xC0 == 0x80):
        ids[count] = byte_ids[keys[place]]
        count += 1
        place += 1
    return count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def merge_words(table: Any, first: Any, merges: Any, ids: Any, used: Any) -> Any:
    """Encode the entries of a table from `first` on, and return the number of ids used then.

    Args:
        table: `Table` of words; the ids of what cannot be told here begin at -1.
        first: first entry.
        merges: the vocabulary.
        ids: takes the ids; has room for one for each byte of the words.
        used: ids already there.
    """
    symbols = np.empty(LONGEST_WORD, np.int64)
    ranks = np.empty(LONGEST_WORD, np.int32)
    has_parts = merges.digits > 0
    for entry in range(first, table.used[0]):
        start = np.int64(table.entries[entry].start)
        end = start + np.int64(table.entries[entry].size)
        began = used
        told = not has_parts or is_plain(table.keys, start, end, merges.refused)
        while told and start < end:
            part = end
            if has_parts:
                part = find_part_end(table.keys, start, end, merges.digits)
                told = not _is_refused_part(table.keys, start, part, merges.refused_parts)
            count = _read_symbols(table.keys, start, part, merges, symbols)
            for i in range(_merge(symbols, count, merges, ranks)):
                used += _write_symbol(symbols[i], table.keys, part, merges.byte_ids, ids[used:])
            start = part
        if told:
            table.entries[entry].begin, table.entries[entry].end = began, used
        else:
            used = began
            table.entries[entry].begin, table.entries[entry].end = -1, -1
    return np.int64(used)
