r"""The log of what every step was fed, as bytes: frames that are only ever appended, and readable after any kill.

    RUN/sequences.log     frames, one after the other
    frame                 b"\xb1SEQ", length of the payload (u32), CRC-32 of the payload (u32), payload
    payload of a start    b"A", JSON
    payload of a step     b"S", step (u64), flags (u8), bytes per id (u8), targets (u64), checksum (u64), ids

All numbers are little endian. An id is stored plus 1, in as few bytes as the largest of its step needs; 0 is a row
without a sequence. A reader that finds no valid frame looks for the next one: a frame cut short by a kill costs only
itself, and nothing is ever cut off or written over.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SEQUENCE_LOG = "sequences.log"

_MAGIC = b"\xb1SEQ"
_HEADER = struct.Struct("<4sII")
_STEP = struct.Struct("<cQBBQQ")
_UPDATED = 1
_LONGEST = 2**26
"""Bytes of a payload; a longer one is damage. A step of 8 million rows stays below it."""
_MOST_IN_VAIN = 2**32
"""Bytes of payloads that may turn out to be none; a log with more was made to be slow, and its rest is damage."""


@dataclass(frozen=True)
class Start:
    """A start of the run.

    Attributes:
        step: steps that were done before: 0, or those of the checkpoint that is continued.
        facts: what is trained on, in what order and on how many ranks.
    """

    step: int
    facts: dict[str, Any]

    def encode(self) -> bytes:
        """Return its frame."""
        return _frame(b"A" + json.dumps({"step": self.step, "facts": self.facts}).encode())


@dataclass(frozen=True)
class FedStep:
    """What one step was fed.

    Attributes:
        step: counted from 1.
        was_updated: whether the weights were.
        targets: tokens that were trained on.
        checksum: sum of the rows' checksums, modulo 2**64.
        width: bytes of an id.
        packed: the ids as they are stored.
    """

    step: int
    was_updated: bool
    targets: int
    checksum: int
    width: int
    packed: bytes

    @classmethod
    def of(
        cls,
        step: int,
        ids: npt.NDArray[np.int64],
        checks: npt.NDArray[np.int64],
        *,
        targets: int,
        was_updated: bool,
    ) -> FedStep:
        """Pack ids (-1 is a row without a sequence) and sum up checksums.

        >>> list(FedStep.of(7, np.array([300, -1]), np.array([5, 6]), targets=9, was_updated=True).packed)
        [45, 1, 0, 0]
        """
        stored = (ids + 1).astype("<u8")
        width = max(1, (int(stored.max(initial=0)).bit_length() + 7) // 8)
        packed = np.ascontiguousarray(stored.view(np.uint8).reshape(-1, 8)[:, :width]).tobytes()
        return cls(step, was_updated, targets, sum_checks(checks), width, packed)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Return the ids of the rows, int64 [rows]; -1 is a row without a sequence.

        >>> FedStep.of(7, np.array([300, -1]), np.array([5, 6]), targets=9, was_updated=True).ids.tolist()
        [300, -1]
        """
        narrow = np.frombuffer(self.packed, np.uint8).reshape(-1, self.width)
        wide = np.zeros((len(narrow), 8), np.uint8)
        wide[:, : self.width] = narrow
        ids: npt.NDArray[np.int64] = wide.view("<u8").ravel().astype(np.int64) - 1
        return ids

    def encode(self) -> bytes:
        """Return its frame."""
        flags = _UPDATED if self.was_updated else 0
        head = _STEP.pack(b"S", self.step, flags, self.width, self.targets, self.checksum)
        return _frame(head + self.packed)


@dataclass(frozen=True)
class Damage:
    """Bytes that are no frame: the end of a start that was killed, or damage done to the file.

    Attributes:
        offset: of the first.
        size: how many.
    """

    offset: int
    size: int


def sum_checks(checks: npt.NDArray[np.int64]) -> int:
    """Return the sum of checksums modulo 2**64."""
    return int(checks.astype(np.uint64).sum(dtype=np.uint64))


def read_frames(path: Path) -> Iterator[Start | FedStep | Damage]:
    """Generate what a log holds, in the order it was written.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from _parse(data)


def _parse(data: mmap.mmap) -> Iterator[Start | FedStep | Damage]:
    position, end, in_vain = 0, len(data), 0
    while position < end:
        found = _read_frame(data, position)
        if found is None:
            # Its length may be what is damaged, so the next frame is looked for right behind its first byte.
            following = position
            while True:
                in_vain += _read_length(data, following) or 0
                following = -1 if in_vain > _MOST_IN_VAIN else data.find(_MAGIC, following + 1)
                if following == -1 or _read_frame(data, following) is not None:
                    break
            size = (end if following == -1 else following) - position
            yield Damage(position, size)
            position += size
            continue
        entry, size = found
        yield entry
        position += size


def _read_frame(data: mmap.mmap, position: int) -> tuple[Start | FedStep, int] | None:
    """Return the frame at a place and its size in bytes, or None where none is."""
    length = _read_length(data, position)
    if length is None:
        return None
    check = _HEADER.unpack_from(data, position)[2]
    first = position + _HEADER.size
    payload = data[first : first + length]
    if zlib.crc32(payload) != check:
        return None
    entry = _decode(payload)
    return None if entry is None else (entry, _HEADER.size + length)


def _read_length(data: mmap.mmap, position: int) -> int | None:
    """Return the bytes of the payload that a header at a place claims, or None where no header can be."""
    if position + _HEADER.size > len(data):
        return None
    magic, length, _ = _HEADER.unpack_from(data, position)
    if magic != _MAGIC or length > _LONGEST or position + _HEADER.size + length > len(data):
        return None
    return int(length)


def _decode(payload: bytes) -> Start | FedStep | None:
    """Return what a payload says, or None where it says nothing that was ever written."""
    if payload[:1] == b"A":
        try:
            content = json.loads(payload[1:])
            return Start(int(content["step"]), dict(content["facts"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
    if payload[:1] != b"S" or len(payload) < _STEP.size:
        return None
    _, step, flags, width, targets, checksum = _STEP.unpack_from(payload)
    packed = payload[_STEP.size :]
    if not 1 <= width <= 8 or len(packed) % width:
        return None
    return FedStep(step, bool(flags & _UPDATED), targets, checksum, width, packed)


def _frame(payload: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload
