"""Exact duplicates over a whole corpus, on disk and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.buckets import MAX_OPEN_FILES, Buckets
from biomedllama_cli.corpus.disk import map_new_file
from biomedllama_cli.corpus.reasons import ALIVE, EXACT_DUPLICATE
from biomedllama_cli.corpus.split import DOCUMENT

_SIGNATURE = np.dtype([("content", "<u8"), ("split", "<u8"), ("number", "<i8")])
_BUCKET_DOCUMENTS = 500_000  # 12 MB of signatures, some 40 MB while they are sorted
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


def mark_duplicates(
    tables: Sequence[Path], scratch: Path, flags: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Set `reasons.EXACT_DUPLICATE` where the content of a document that stays came earlier; return the flags.

    Documents that are dropped already are not looked at: they neither stay nor make others duplicates.
    Signatures are dealt into bucket files by hash, and each bucket is sorted on its own, so memory depends on
    the size of a bucket and not on that of the corpus: 1 byte per document (the flags, in a mapped file) and the
    largest bucket (0.5 million documents of some 80 bytes up to 256 million documents, then 1/512 of them). Disk:
    24 bytes per document.

    Args:
        tables: document tables in input order (rows of `split.DOCUMENT`).
        scratch: folder for the buckets, and for the flags when none are given.
        flags: a drop reason per document, changed in place; None for new ones, all alive.
    """
    documents = sum(table.stat().st_size for table in tables) // DOCUMENT.itemsize
    if flags is None:
        flags = _create_flags(scratch, documents)
    assert len(flags) == documents, "flags and tables count documents differently"
    count = max(1, min(-(-documents // _BUCKET_DOCUMENTS), MAX_OPEN_FILES))
    with Buckets(scratch, count, _SIGNATURE) as buckets:
        for number, rows in iter_rows(tables):
            alive = np.flatnonzero(flags[number : number + len(rows)] == ALIVE)
            # Repeats near each other go at once: a million copies of one text must not fill one bucket.
            near = find_repeats(rows["content"][alive], rows["split"][alive])
            flags[number + alive[near]] = EXACT_DUPLICATE
            first = np.delete(alive, near)
            signatures = np.empty(len(first), _SIGNATURE)
            signatures["content"], signatures["split"] = rows["content"][first], rows["split"][first]
            signatures["number"] = number + first
            buckets.deal(signatures, signatures["content"] % np.uint64(count))
    for signatures in buckets.iter_rows():
        repeats = find_repeats(signatures["content"], signatures["split"])
        flags[signatures["number"][repeats]] = EXACT_DUPLICATE
    return flags


def _create_flags(scratch: Path, documents: int) -> npt.NDArray[np.uint8]:
    if documents == 0:
        return np.zeros(0, np.uint8)
    scratch.mkdir(parents=True, exist_ok=True)
    return map_new_file(scratch / "flags.u8", documents)
