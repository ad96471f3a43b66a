"""Rows dealt into files by key, so that rows of one key meet and only one file is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MAX_OPEN_FILES = 512
"""Most bucket files written at the same time: half of the usual limit of a process."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, Knuth's multiplicative hashing


class Buckets:
    """Files of rows of one dtype: open for dealing inside a `with` block, to be read after it.

    Args:
        folder: where the files go; made when it is not there.
        count: number of buckets.
        dtype: structured dtype of the rows.
    """

    def __init__(self, folder: Path, count: int, dtype: npt.DTypeLike) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._dtype = np.dtype(dtype)
        self._paths = [folder / f"bucket-{number:03d}" for number in range(count)]
        self._files: list[BinaryIO] = []

    def __enter__(self) -> Buckets:
        """Open all files, empty."""
        for path in self._paths:
            self._files.append(path.open("wb"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all files."""
        for file in self._files:
            file.close()
        self._files.clear()

    def deal(self, rows: npt.NDArray[Any], targets: npt.NDArray[Any]) -> None:
        """Append each row to the bucket of its number in `targets`; rows of a bucket stay in order."""
        order = np.argsort(targets, kind="stable")
        ends = np.cumsum(np.bincount(targets.astype(np.intp), minlength=len(self._paths)))
        start = 0
        for bucket, end in enumerate(ends.tolist()):
            if end > start:
                self._files[bucket].write(rows[order[start:end]].tobytes())
            start = end

    def iter_rows(self, *, remove: bool = True) -> Iterator[npt.NDArray[Any]]:
        """Yield the rows of each bucket that holds some, and remove each file after its turn."""
        for path in self._paths:
            if rows := path.stat().st_size // self._dtype.itemsize:
                yield np.fromfile(path, self._dtype, count=rows)
            if remove:
                path.unlink()

    def remove(self) -> None:
        """Remove the files."""
        for path in self._paths:
            path.unlink(missing_ok=True)


def choose_bucket(keys: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.int64]:
    """Return the bucket of each key, spread evenly even for keys that are consecutive numbers.

    >>> choose_bucket(np.array([1, 2, 1], dtype=np.uint64), 7).tolist()
    [6, 1, 6]
    """
    mixed = keys * _MULTIPLIER
    return ((mixed >> np.uint64(32)) % np.uint64(count)).astype(np.int64)


def find_group_starts(keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return where each run of equal keys starts.

    >>> find_group_starts(np.array([3, 3, 5, 7, 7])).tolist()
    [0, 2, 3]
    """
    if len(keys) == 0:
        return np.zeros(0, np.int64)
    return np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1)).astype(np.int64)
