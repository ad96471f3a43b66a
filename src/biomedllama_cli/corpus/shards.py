"""Token shards in Megatron's indexed format: `NAME.bin` holds ids end to end, `NAME.idx` where documents lie.

Layout of the index (little endian), as megatron-core's `indexed_dataset.py` writes it: magic `MMIDIDX` and two
zero bytes, version (uint64) 1, data type code (uint8), number of sequences and of document boundaries (uint64 each),
sequence lengths (int32), sequence byte offsets (int64), document boundaries (int64, in sequences).
Here one sequence is one document.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_CODES: dict[int, type[np.generic]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    8: np.uint16,
}
_DAMAGED_HINT = "The copy is damaged: run prepare again, or copy the folder again."


def choose_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Return the smallest id type Megatron knows for a vocabulary.

    >>> choose_dtype(65536), choose_dtype(65537)
    (dtype('uint16'), dtype('int32'))
    """
    return np.dtype(np.uint16 if vocabulary_size <= 65536 else np.int32)


class ShardWriter:
    """Write one shard document by document.

    Args:
        path_prefix: path of the shard without `.bin` and `.idx`.
        dtype: type of the ids on disk.
    """

    def __init__(self, path_prefix: Path, dtype: npt.DTypeLike) -> None:
        self.path_prefix = path_prefix
        self.dtype = np.dtype(dtype)
        self.tokens = 0
        """Tokens written so far."""
        self._lengths: list[npt.NDArray[np.int32]] = []
        self._sha256 = hashlib.sha256()
        self._bin = path_prefix.with_name(path_prefix.name + ".bin").open("wb")

    def append(self, ids: npt.NDArray[Any]) -> None:
        """Add one document."""
        self.append_documents(ids, np.array([len(ids)]))

    def append_documents(self, token_ids: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> None:
        """Add neighbouring documents at once: their ids end to end, and the length of each in tokens."""
        assert int(lengths.sum()) == len(token_ids), "document lengths must add up to the tokens"
        data = np.ascontiguousarray(token_ids, dtype=self.dtype).tobytes()
        self._bin.write(data)
        self._sha256.update(data)
        self._lengths.append(lengths.astype(np.int32))
        self.tokens += len(token_ids)

    def close(self) -> str:
        """Write the index, flush both files to the disk, and return the SHA-256 of the `.bin` file."""
        _flush(self._bin)
        self._bin.close()
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int32)
        ends = np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
        pointers = np.concatenate([np.zeros(1, np.int64), ends])[: len(lengths)]
        code = next(code for code, known in _CODES.items() if np.dtype(known) == self.dtype)
        with self.path_prefix.with_name(self.path_prefix.name + ".idx").open("wb") as index:
            index.write(_HEADER.pack(MAGIC, VERSION, code, len(lengths), len(lengths) + 1))
            index.write(lengths.astype("<i4").tobytes())
            index.write(pointers.astype("<i8").tobytes())
            index.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
            _flush(index)
        return self._sha256.hexdigest()


@dataclass(frozen=True)
class Shard:
    """One shard on disk.

    Attributes:
        path: its path without `.bin` and `.idx`.
        token_ids: all ids end to end, shape [tokens], mapped from the disk.
        document_starts: where each document begins, in tokens, and the end; int64, shape [documents + 1].
    """

    path: Path
    token_ids: npt.NDArray[Any]
    document_starts: npt.NDArray[np.int64]


def load_shard(prefix: Path) -> Shard:
    """Map a shard from the disk.

    Args:
        prefix: path without `.bin` and `.idx`.

    Raises:
        DataError: a file is missing, or the two do not belong together.
    """
    bin_path = prefix.with_name(prefix.name + ".bin")
    index_path = prefix.with_name(prefix.name + ".idx")
    try:
        index, bin_size = index_path.read_bytes(), bin_path.stat().st_size
    except OSError as error:
        raise DataError(
            f"Shard file {error.filename} cannot be read: {error.strerror}.", _DAMAGED_HINT
        ) from None
    if len(index) < _HEADER.size:
        raise DataError(f"{index_path} is too short to be a shard index.", _DAMAGED_HINT)
    magic, version, code, sequences, boundaries = _HEADER.unpack_from(index)
    if magic != MAGIC or version != VERSION or code not in _CODES:
        raise DataError(f"{index_path} is not a Megatron index of version {VERSION}.", _DAMAGED_HINT)
    if len(index) != _HEADER.size + 12 * sequences + 8 * boundaries:
        raise DataError(f"{index_path} does not have the size its header says.", _DAMAGED_HINT)
    lengths = np.frombuffer(index, "<i4", sequences, _HEADER.size)
    pointers = np.frombuffer(index, "<i8", sequences, _HEADER.size + 4 * sequences)
    documents = np.frombuffer(index, "<i8", boundaries, _HEADER.size + 12 * sequences)
    dtype = np.dtype(_CODES[code])
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    if (lengths < 0).any() or not np.array_equal(pointers, starts[:-1] * dtype.itemsize):
        raise DataError(f"{index_path} does not list its sequences end to end.", _DAMAGED_HINT)
    if bin_size != starts[-1] * dtype.itemsize:
        raise DataError(
            f"{bin_path} has {bin_size} bytes, and its index says {starts[-1] * dtype.itemsize}.",
            _DAMAGED_HINT,
        )
    if boundaries < 1 or documents[0] != 0 or documents[-1] != sequences or (np.diff(documents) < 0).any():
        raise DataError(f"{index_path} has document boundaries out of order.", _DAMAGED_HINT)
    # An empty file cannot be mapped.
    token_ids = np.memmap(bin_path, dtype=dtype, mode="r") if bin_size else np.zeros(0, dtype)
    return Shard(prefix, token_ids, starts[documents])


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
