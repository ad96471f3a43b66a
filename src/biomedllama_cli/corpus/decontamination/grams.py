"""Runs of n words as 64-bit hashes, and a table that tells which of them belong to benchmark items."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd; the high bits of a product depend on all bits of a hash
_FILTER_SLOTS = 32  # bits of filter per run: at most 1 in 32 of the runs found nowhere passes


def hash_words(ids: npt.NDArray[np.uint32]) -> Hashes:
    """Return one well-mixed 64-bit value per word id (the finaliser of SplitMix64)."""
    value = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(_BASE)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hash_runs(values: Hashes, words: int) -> Hashes:
    """Return the hash of every run of `words` neighbouring words: sum of value[i + j] * base^j modulo 2^64.

    One cumulative sum and one product per run, whatever the number of words: sums of value[i] * base^i from
    the beginning, their differences divided by base^i.

    >>> same = hash_runs(np.array([5, 7, 9, 5, 7], np.uint64), 2)
    >>> bool(same[0] == same[3]), len(same), len(hash_runs(same, 9))
    (True, 4, 0)
    """
    if len(values) < words:
        return np.zeros(0, np.uint64)
    powers, inverses = _powers(1 << len(values).bit_length())
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return (sums[words:] - sums[:-words]) * inverses[: len(values) - words + 1]


@functools.lru_cache(maxsize=4)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    both = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        powers = np.full(count, base, np.uint64)
        powers[0] = 1
        both.append(np.cumprod(powers, dtype=np.uint64))
    return both[0], both[1]


@dataclass(frozen=True, eq=False)
class GramTable:
    """Where runs of `words` words occur in the units of an index.

    Attributes:
        words: length of a run.
        keys: their hashes, sorted, each once.
        starts: for each key where its places begin, and the end of the last.
        units: unit of each place.
        offsets: first word of each place, counted within its unit.
        filter: one bit per slot, set where some key's hash falls: most runs of a text end here.
    """

    words: int
    keys: Hashes
    starts: Numbers
    units: Numbers
    offsets: Numbers
    filter: npt.NDArray[np.uint8]

    def find(self, hashes: Hashes) -> tuple[Numbers, Numbers, Numbers]:
        """Return (position, unit, offset) of every pair of equal hashes, in order of position."""
        none = np.zeros(0, np.int64)
        if not len(self.keys) or not len(hashes):
            return none, none, none
        slots = _filter_slots(hashes, len(self.filter) * 8)
        bits = self.filter[slots >> np.uint64(3)] >> (slots & np.uint64(7)).astype(np.uint8)
        positions = (bits & 1).nonzero()[0]
        if not len(positions):
            return none, none, none
        at = np.searchsorted(self.keys, hashes[positions])
        found = self.keys[np.minimum(at, len(self.keys) - 1)] == hashes[positions]
        positions, at = positions[found], at[found]
        if not len(positions):
            return none, none, none
        counts = self.starts[at + 1] - self.starts[at]
        # Each key's places stand end to end: count up within each, from where it starts.
        first = np.repeat(self.starts[at] - np.cumsum(counts) + counts, counts)
        places = first + np.arange(len(first))
        return np.repeat(positions, counts), self.units[places], self.offsets[places]


def build_table(words: int, hashes: Hashes, units: Numbers, offsets: Numbers) -> GramTable:
    """Return the table of some places, given as three columns in any order."""
    order = np.lexsort((offsets, units, hashes))
    keys, starts = np.unique(hashes[order], return_index=True)
    return restore_table(words, keys, np.append(starts, len(hashes)), (units[order], offsets[order]))


def restore_table(words: int, keys: Hashes, starts: Numbers, places: tuple[Numbers, Numbers]) -> GramTable:
    """Return the table of sorted columns: only the filter is made anew."""
    slots = np.zeros(1 << max(10, (len(keys) * _FILTER_SLOTS).bit_length()), np.bool_)
    slots[_filter_slots(keys, len(slots))] = True
    return GramTable(words, keys, starts, *places, filter=np.packbits(slots, bitorder="little"))


def _filter_slots(hashes: Hashes, slots: int) -> Hashes:
    return (hashes * _SPREAD) >> np.uint64(65 - slots.bit_length())
