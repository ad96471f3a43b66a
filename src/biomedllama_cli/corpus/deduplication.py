"""Exact duplicates over a whole corpus, on disk and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.split import DOCUMENT

_SIGNATURE = np.dtype([("content", "<u8"), ("split", "<u8"), ("number", "<i8")])
_BUCKET_DOCUMENTS = 500_000  # 12 MB of signatures, some 40 MB while they are sorted
_MAX_BUCKETS = 512  # files open at once
CHUNK_DOCUMENTS = 1 << 16


def iter_rows(tables: Sequence[Path]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (number of the first row, rows) over document tables end to end, some rows at a time."""
    number = 0
    for table in tables:
        with table.open("rb") as file:
            while data := file.read(CHUNK_DOCUMENTS * DOCUMENT.itemsize):
                rows = np.frombuffer(data, DOCUMENT)
                yield number, rows
                number += len(rows)


def find_repeats(content: npt.NDArray[Any], split: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the positions whose 128-bit hash occurs earlier.

    >>> find_repeats(np.array([7, 5, 7, 7]), np.array([1, 1, 1, 2]))
    array([2])
    """
    order = np.lexsort((split, content))  # stable: equal hashes stay in order of position
    same = (content[order][1:] == content[order][:-1]) & (split[order][1:] == split[order][:-1])
    return np.sort(order[1:][same]).astype(np.int64)


def mark_duplicates(tables: Sequence[Path], scratch: Path) -> npt.NDArray[np.uint8]:
    """Return one flag per document, mapped from `scratch`: 1 where the same content came earlier.

    Signatures are dealt into bucket files by hash, and each bucket is sorted on its own, so memory depends on
    the size of a bucket and not on that of the corpus.

    Args:
        tables: document tables in input order (rows of `split.DOCUMENT`).
        scratch: folder for the buckets and the flags.
    """
    documents = sum(table.stat().st_size for table in tables) // DOCUMENT.itemsize
    if documents == 0:
        return np.zeros(0, np.uint8)
    scratch.mkdir(parents=True, exist_ok=True)
    flags: npt.NDArray[np.uint8] = np.memmap(scratch / "flags.u8", np.uint8, "w+", shape=(documents,))
    buckets = min(-(-documents // _BUCKET_DOCUMENTS), _MAX_BUCKETS)
    paths = [scratch / f"bucket-{bucket:03d}" for bucket in range(buckets)]
    files = [path.open("wb") for path in paths]
    try:
        for number, rows in iter_rows(tables):
            # Repeats near each other go at once: a million copies of one text must not fill one bucket.
            near = find_repeats(rows["content"], rows["split"])
            flags[number + near] = 1
            first = np.setdiff1d(np.arange(len(rows)), near)
            signatures = np.empty(len(first), _SIGNATURE)
            signatures["content"], signatures["split"] = rows["content"][first], rows["split"][first]
            signatures["number"] = number + first
            target = signatures["content"] % np.uint64(buckets)
            for bucket in np.unique(target):
                files[int(bucket)].write(signatures[target == bucket].tobytes())
    finally:
        for file in files:
            file.close()
    for path in paths:
        signatures = np.fromfile(path, _SIGNATURE)
        repeats = find_repeats(signatures["content"], signatures["split"])
        flags[signatures["number"][repeats]] = 1
        path.unlink()
    return flags
