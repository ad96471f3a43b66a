"""The words of a document as numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# SplitMix64's increment and multipliers (Steele, Lea and Flood 2014, OOPSLA).
_STEP, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Words:
    """The words of a text: pieces between whitespace, as Gopher counts them.

    Attributes:
        distinct: each word once, in order of first occurrence.
        numbers: for each word of the text its index in `distinct`.
        lengths: for each of `distinct` its characters.
    """

    distinct: list[str]
    numbers: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)


def count_words(text: str) -> Words:
    """Return the words of a text.

    >>> words = count_words("to be or not to be")
    >>> words.distinct, words.numbers.tolist()
    (['to', 'be', 'or', 'not'], [0, 1, 2, 3, 0, 1])
    """
    pieces = text.split()
    index = {word: number for number, word in enumerate(dict.fromkeys(pieces))}
    numbers = np.fromiter(map(index.__getitem__, pieces), np.int64, len(pieces))
    return Words(list(index), numbers, np.fromiter(map(len, index), np.int64, len(index)))


def iter_runs(numbers: npt.NDArray[Any], longest: int) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield hashes of the runs of 2, 3, ... `longest` numbers: equal runs are equal, others all but surely not.

    >>> pairs, triples = iter_runs(np.array([5, 6, 7, 5, 6]), 3)
    >>> bool(pairs[0] == pairs[3]), len(set(pairs.tolist())), len(triples)
    (True, 3, 3)
    """
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * _STEP
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    mixed ^= mixed >> np.uint64(31)
    runs = mixed
    for n in range(2, longest + 1):
        runs = runs[:-1] * _STEP + mixed[n - 1 :]
        yield runs


def occurs_times(values: npt.NDArray[Any], times: int) -> bool:
    """Tell whether some value occurs at least so many times.

    >>> occurs_times(np.array([3, 1, 3]), 2), occurs_times(np.array([3, 1, 3]), 3)
    (True, False)
    """
    ordered = np.sort(values)
    return bool((ordered[times - 1 :] == ordered[: len(ordered) - times + 1]).any())


def find_repeats(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which values occurred before.

    >>> find_repeats(np.array([3, 1, 3, 3])).tolist()
    [False, False, True, True]
    """
    repeated = np.zeros(len(values), np.bool_)
    order = np.argsort(values, kind="stable")
    repeated[order[1:][values[order[1:]] == values[order[:-1]]]] = True
    return repeated
