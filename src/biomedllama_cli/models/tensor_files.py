"""safetensors files that several processes fill at once, each its own rows, and that are read by rows.

Where every tensor lies in a file follows from names, types and shapes alone. Rows of a tensor are neighbours on the
disk, so processes that hold a tensor's rows between them write one plain file without ever gathering it, and its bytes
do not depend on how many they were.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8  # of the first tensor's byte, as the format asks
_BYTES_AT_ONCE = 64 << 20  # one call writes 2 GiB at most, and a smaller one lets go of the disk's queue


@dataclass(frozen=True)
class TensorSpec:
    """What a file's header says of a tensor.

    Attributes:
        dtype: of its elements.
        shape: of the whole tensor.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorSpec:
        """Return that of a tensor; of a sharded one, as it is whole."""
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def size(self) -> int:
        """Return its bytes.

        >>> TensorSpec(torch.bfloat16, (3, 5)).size
        30
        """
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_size(self) -> int:
        """Return the bytes of one row, or of all where there are no rows."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class FilePlan:
    """Where everything lies in a file.

    Attributes:
        header: the file's first bytes.
        starts: where each tensor begins (in bytes from the file's start), by name.
        size: of the file (in bytes).
    """

    header: bytes
    starts: Mapping[str, int]
    size: int


def plan_file(specs: Mapping[str, TensorSpec]) -> FilePlan:
    """Lay out a safetensors file: the widest types first, then by name, as the format's own library does.

    >>> plan = plan_file({"b": TensorSpec(torch.float32, (2, 3)), "a": TensorSpec(torch.int8, (1,))})
    >>> plan.size - len(plan.header), plan.starts["a"] - plan.starts["b"]
    (25, 24)
    """
    names = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets, place = {}, 0
    for name in names:
        spec = specs[name]
        entries[name] = {
            "dtype": _DTYPES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [place, place + spec.size],
        }
        offsets[name], place = place, place + spec.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return FilePlan(
        header, {name: len(header) + offset for name, offset in offsets.items()}, len(header) + place
    )


def create_file(path: Path, plan: FilePlan) -> None:
    """Make a file of its whole length that holds its header, for others to fill.

    Raises:
        OSError: it cannot be written, or may not become so large.
    """
    with path.open("xb") as file:
        file.write(plan.header)
        file.flush()
        file.truncate(plan.size)


def write_tensor(descriptor: int, place: int, tensor: torch.Tensor) -> None:
    """Write a tensor's bytes into an open file.

    Args:
        descriptor: of the file.
        place: where they begin (in bytes from the file's start).
        tensor: on any device.

    Raises:
        OSError: there is no room.
    """
    if tensor.numel() == 0:
        return
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    content, done = flat.numpy().data, 0
    while done < len(content):
        written = os.pwrite(descriptor, content[done : done + _BYTES_AT_ONCE], place + done)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += written


class TensorFile:
    """A safetensors file that is read by rows; it is mapped, so only those rows come from the disk.

    Args:
        path: of the file.

    Raises:
        ValueError: it is no safetensors file, or a broken one.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._stack = ExitStack()
        try:
            self._file: Any = self._stack.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise ValueError(f"{path.name}: {error}") from error
        self.names = frozenset(self._file.keys())

    def __enter__(self) -> TensorFile:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._stack.close()

    def read_shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """Return a whole tensor."""
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor

    def read_rows(self, name: str, start: int, end: int) -> torch.Tensor:
        """Return rows of a tensor."""
        rows: torch.Tensor = self._file.get_slice(name)[start:end]
        return rows
