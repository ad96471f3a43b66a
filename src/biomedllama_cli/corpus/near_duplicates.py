"""Near-duplicates over a whole corpus: candidates by banded signatures on disk, checked by their similarity."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.buckets import MAX_OPEN_FILES, Buckets, choose_bucket, find_group_starts
from biomedllama_cli.corpus.minhash import PERMUTATIONS, SIGNATURE, Signer, estimate_jaccard
from biomedllama_cli.corpus.reasons import ALIVE, NEAR_DUPLICATE

__all__ = ["SIGNATURE", "THRESHOLD", "Signer", "mark_near_duplicates"]

THRESHOLD = 0.78
"""Estimated Jaccard similarity of a near-duplicate: 2.3 standard errors below 0.85, 4 above 0.6."""

BANDS, ROWS_PER_BAND = 18, 7
"""Two documents are compared when all minima of one band agree: of pairs at Jaccard 0.85 a share of
1 - (1 - 0.85**7)**18 = 0.999, at 0.6 of 0.40 (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4)."""

_ENTRY = np.dtype([("band", "<u8"), ("document", "<u4")])
_CHUNK_DOCUMENTS = 1 << 15  # 8.5 MB of signatures
_BUCKET_ENTRIES = 1 << 20  # 12 MB, some 40 MB while they are sorted
_MAX_BUCKETS = MAX_OPEN_FILES // BANDS  # of one band
_MAX_LEADERS = 64
"""Most documents of one group that others are compared with: more that agree in a band and are not alike share a
phrase, and comparing each with all would take the square of their number."""

_MULTIPLIERS = np.array(
    [
        0x9E3779B97F4A7C15,
        0xBF58476D1CE4E5B9,
        0x94D049BB133111EB,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0xD6E8FEB86659FD93,
        0xFF51AFD7ED558CCD,
    ],
    np.uint64,
)


def mark_near_duplicates(
    signature_files: Sequence[Path],
    flags: npt.NDArray[np.uint8],
    scratch: Path,
    threshold: float = THRESHOLD,
) -> None:
    """Set `reasons.NEAR_DUPLICATE` for documents that are like an earlier one.

    Bands are taken one after the other. Within a band, the documents that agree in it are taken in the order of
    the input: each goes that is at least `threshold` like an earlier one that has stayed so far. What has gone
    takes no part in later bands. The first document of the input always stays, and each that goes is linked to
    one that stays by a chain of such steps, nearly always of one: a document may outlive the one it was like
    when that one goes later on. Documents that are too short for a signature stay.

    Memory: 1 byte per document (the flags, in a mapped file), 13 MB of signatures at a time, and the largest
    bucket (1 million entries of some 40 bytes up to 29 million documents, then 1/28 of them, 1.4 bytes per
    document). Disk: 216 bytes per document besides the signatures. The result depends on the order of the
    documents and not on how they are cut into files.

    Args:
        signature_files: rows of SIGNATURE, a file per task, in input order.
        flags: a drop reason per document, changed in place; documents dropped already take no part.
        scratch: folder for the bands, removed at its end.
        threshold: estimated Jaccard similarity from which a document goes (a fraction).
    """
    sizes = [path.stat().st_size // SIGNATURE.itemsize for path in signature_files]
    assert sum(sizes) == len(flags), "flags and signatures count documents differently"
    assert len(flags) < 2**32, "documents are numbered in 32 bits"
    store = _SignatureStore(signature_files, sizes)
    count = max(1, min(-(-len(flags) // _BUCKET_ENTRIES), _MAX_BUCKETS))
    least_equal = int(np.ceil(threshold * PERMUTATIONS))
    buckets = Buckets(scratch, BANDS * count, _ENTRY)
    with buckets:
        for number, rows in store.iter_rows():
            compared = np.flatnonzero((flags[number : number + len(rows)] == ALIVE) & (rows["shingles"] > 0))
            entries = np.empty(len(compared), _ENTRY)
            entries["document"] = number + compared
            for band, hashes in enumerate(iter_bands(rows["minima"][compared])):
                entries["band"] = hashes
                buckets.deal(entries, band * count + choose_bucket(hashes, count))
    for entries in buckets.iter_rows():
        groups = _find_groups(entries[flags[entries["document"]] == ALIVE])
        for followers in _iter_followers(groups, store, least_equal):
            flags[followers] = NEAR_DUPLICATE
    scratch.rmdir()


def iter_bands(minima: npt.NDArray[np.uint16]) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield for each band a 64-bit hash of its minima per document.

    >>> minima = np.arange(2 * PERMUTATIONS, dtype=np.uint16).reshape(2, PERMUTATIONS)
    >>> minima[1, 7:] = minima[0, 7:]
    >>> [bool(hashes[0] == hashes[1]) for hashes in iter_bands(minima)][:3]
    [False, True, True]
    """
    for band in range(BANDS):
        part = minima[:, band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND].astype(np.uint64)
        # Squares between: a linear combination alone would let differences cancel.
        mixed = (part + np.uint64(1)) * _MULTIPLIERS
        mixed ^= mixed >> np.uint64(29)
        yield (mixed * _MULTIPLIERS[::-1]).sum(axis=1, dtype=np.uint64)


def _find_groups(entries: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the entries whose band occurs more than once, by band and then in input order."""
    order = np.argsort(
        entries["band"]
    )  # the fast sort, not a stable one; few entries are left to put in order
    same = entries["band"][order][1:] == entries["band"][order][:-1]
    repeated = np.zeros(len(entries), np.bool_)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    found = entries[repeated]
    grouped: npt.NDArray[Any] = found[np.lexsort((found["document"], found["band"]))]
    return grouped


def _iter_followers(
    groups: npt.NDArray[Any], store: _SignatureStore, least_equal: int
) -> Iterator[npt.NDArray[np.uint32]]:
    """Yield documents that are like an earlier one of their group, some groups at a time."""
    start = 0
    carried = groups[:0]
    while start < len(groups):
        here = np.concatenate((carried, groups[start : start + _CHUNK_DOCUMENTS]))
        start += _CHUNK_DOCUMENTS
        followers = find_followers(here["band"], store.read(here["document"]), least_equal)
        yield here["document"][followers]
        # A group that goes on in the next slice is compared there with its leaders of this one.
        goes_on = start < len(groups) and here["band"][-1] == groups["band"][start]
        stayed = here[~followers & (here["band"] == here["band"][-1])]
        carried = stayed[:_MAX_LEADERS] if goes_on else groups[:0]


def find_followers(
    groups: npt.NDArray[Any], signatures: npt.NDArray[Any], least_equal: int
) -> npt.NDArray[np.bool_]:
    """Tell which rows are like an earlier row of their group that is not itself like an earlier one.

    Args:
        groups: group of each row, rows of one group together and in order.
        signatures: rows of SIGNATURE.
        least_equal: minima that must agree, of PERMUTATIONS.
    """
    followers = np.zeros(len(groups), np.bool_)
    undecided = np.arange(len(groups))
    for _ in range(_MAX_LEADERS):
        starts = find_group_starts(groups[undecided])
        if len(starts) == len(undecided):
            break
        leaders = np.repeat(undecided[starts], np.diff(np.append(starts, len(undecided))))
        others = np.delete(np.arange(len(undecided)), starts)
        rest = undecided[others]
        alike = estimate_jaccard(signatures[leaders[others]], signatures[rest]) * PERMUTATIONS >= least_equal
        followers[rest[alike]] = True
        undecided = rest[~alike]
    return followers


class _SignatureStore:
    """Signatures in the files of the tasks, read and not mapped: pages of a map would count as memory."""

    def __init__(self, files: Sequence[Path], sizes: Sequence[int]) -> None:
        self._files = files
        self._starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    def iter_rows(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield (number of the first document, rows of SIGNATURE), some at a time."""
        for path, first in zip(self._files, self._starts.tolist(), strict=False):
            number = first
            with path.open("rb") as file:
                while data := file.read(_CHUNK_DOCUMENTS * SIGNATURE.itemsize):
                    rows = np.frombuffer(data, SIGNATURE)
                    yield number, rows
                    number += len(rows)

    def read(self, documents: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the rows of documents, whatever their order."""
        rows = np.empty(len(documents), SIGNATURE)
        files = np.searchsorted(self._starts, documents, side="right") - 1
        for number in np.unique(files).tolist():
            places = np.flatnonzero(files == number)
            offsets = (documents[places] - self._starts[number]) * SIGNATURE.itemsize
            descriptor = os.open(self._files[number], os.O_RDONLY)
            try:
                for place, offset in zip(places.tolist(), offsets.tolist(), strict=True):
                    rows[place] = np.frombuffer(os.pread(descriptor, SIGNATURE.itemsize, offset), SIGNATURE)[
                        0
                    ]
            finally:
                os.close(descriptor)
        return rows
