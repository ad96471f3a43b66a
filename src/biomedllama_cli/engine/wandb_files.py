"""What W&B keeps of a run on the disk while it is offline.

A `.wandb` file is a log in LevelDB's format after a header of seven bytes: blocks of 32 KiB with records of a checksum
(4 bytes), a length (2 bytes, little endian), a type (1 byte) and protobuf data. W&B writes whole blocks at a time, so a
kill takes the last steps; nothing but the file says which.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

_FILE_HEADER, _BLOCK, _RECORD_HEADER = 7, 32 * 1024, 7
_WHOLE, _LAST = 1, 4
"""Types of a record that ends a message; 2 and 3 are the first and the middle parts of one."""


def find_last_step(folder: Path, identity: str) -> int | None:
    """Return the last step in the files of a run (-1 before the first), or None where it has none that can be read.

    Args:
        folder: that holds `wandb/`.
        identity: id of the run.
    """
    # A second start within a second gets a folder with a number behind the id.
    files = sorted((folder / "wandb").glob(f"offline-run-*-{identity}*/run-{identity}.wandb"))
    try:
        return max((step for file in files for step in (-1, *_iter_steps(file))), default=None)
    except Exception as error:
        logger.debug("the files of W&B cannot be read: %s", error)
        return None


def _iter_steps(file: Path) -> Iterator[int]:
    from wandb.proto.wandb_internal_pb2 import Record

    for message in iter_messages(file.read_bytes()):
        record = Record()
        record.ParseFromString(message)
        if record.HasField("history"):
            yield record.history.step.num


def iter_messages(content: bytes) -> Iterator[bytes]:
    """Generate the messages of a file; the last is left out where a kill has cut it."""
    place, parts = _FILE_HEADER, b""
    while place + _RECORD_HEADER <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _RECORD_HEADER:  # no header fits into the rest of a block, so it is filled up
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        start, place = place + _RECORD_HEADER, place + _RECORD_HEADER + size
        if place > len(content) or not _WHOLE <= kind <= _LAST:
            return
        parts += content[start:place]
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""
