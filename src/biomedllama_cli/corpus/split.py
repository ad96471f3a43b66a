"""Which documents are held out: decided by the hash of their content, and so by nothing else."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

DOCUMENT = np.dtype([("content", "<u8"), ("split", "<u8"), ("tokens", "<i8"), ("bytes", "<i8")])
"""One row per document: both halves of its 128-bit content hash, its tokens, its bytes of UTF-8."""

TRAIN, VALIDATION, DROPPED = 0, 1, 2


def hash_content(text: bytes) -> tuple[int, int]:
    """Return the halves of the BLAKE2b-128 hash of a document: one finds duplicates, one splits.

    >>> hash_content(b"a") == hash_content(b"a") != hash_content(b"b")
    True
    """
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def is_held_out(split_hash: npt.NDArray[np.uint64], fraction: float) -> npt.NDArray[np.bool_]:
    """Tell which documents belong to the validation split.

    >>> is_held_out(np.array([0, 2**62, 2**63], dtype=np.uint64), 0.5)
    array([ True,  True, False])
    """
    # Compared in units of 2**-53, where float64 is exact; a fraction is below 1.
    threshold = np.uint64(int(fraction * 2**53))
    held_out: npt.NDArray[np.bool_] = (split_hash >> np.uint64(11)) < threshold
    return held_out


class SplitChooser:
    """Collect the documents of a corpus, and hold out at least one where a share is asked for.

    A fraction of a small corpus may hold out nothing at all by hash; then the document with the smallest hash
    is held out (and the one with the largest stays, when everything would go; an only document always stays):
    still a function of the set of documents and not of their order.
    """

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
        self._counts = [0, 0]
        self._least: tuple[int, int, int] | None = None
        self._most: tuple[int, int, int] | None = None

    def split(self, rows: npt.NDArray[Any], dropped: npt.NDArray[Any], first: int) -> npt.NDArray[np.uint8]:
        """Return TRAIN, VALIDATION or DROPPED for each row; `first` is the number of the first one."""
        result = np.where(is_held_out(rows["split"], self._fraction), VALIDATION, TRAIN).astype(np.uint8)
        result[dropped.astype(bool)] = DROPPED
        kept = np.flatnonzero(result != DROPPED)
        for split in (TRAIN, VALIDATION):
            self._counts[split] += int((result == split).sum())
        if len(kept):
            order = np.lexsort((rows["content"][kept], rows["split"][kept]))
            ends = [kept[order[0]], kept[order[-1]]]
            keys = [(int(rows["split"][i]), int(rows["content"][i]), first + int(i)) for i in ends]
            self._least = min(filter(None, (self._least, keys[0])))
            self._most = max(filter(None, (self._most, keys[1])))
        return result

    def correction(self) -> tuple[int, int] | None:
        """Return (document number, its split) of the one document to move, or None."""
        if self._fraction == 0:
            return None
        if self._counts[TRAIN] == 0 and self._most:
            return self._most[2], TRAIN
        if self._counts[VALIDATION] == 0 and self._counts[TRAIN] > 1 and self._least:
            return self._least[2], VALIDATION
        return None
