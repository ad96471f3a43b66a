"""A full disk, said in one sentence wherever a library met it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from biomedllama_cli.errors import OutputError, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# numpy's tofile names no errno; tokenizers (Rust) and sentencepiece (C++) raise errors of their own.
_SAYINGS = re.compile(
    r"no space left on device|disk quota exceeded|file too large|\d+ requested and \d+ written", re.I
)
_CHAIN = 8  # causes looked at; an error can be its own context


def is_full_disk(error: BaseException) -> bool:
    """Tell whether an error, or one that it came from, is a disk without room.

    >>> is_full_disk(OSError(28, "No space left on device")), is_full_disk(OSError(2, "No such file"))
    (True, False)
    """
    current: BaseException | None = error
    for _ in range(_CHAIN):
        if current is None:
            return False
        if isinstance(current, OSError) and current.errno in _FULL:
            return True
        if not isinstance(current, UserError) and _SAYINGS.search(str(current)):
            return True
        current = current.__cause__ or current.__context__
    return False


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn whatever a full disk makes of the body into an `OutputError` that names the disk.

    Args:
        folder: where the body writes.

    Raises:
        OutputError: there was no room.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutputError) or not is_full_disk(error):
            raise
        raise OutputError(
            f"The disk of {folder} is full ({_describe_room(folder)}).",
            "Make room and run the same command again: finished parts are kept. Or name a folder on another disk.",
        ) from error


def map_new_file(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """Return a new file of `size` zero bytes, mapped for reading and writing.

    Its room is taken at once: a hole that is written to on a full disk kills the process with SIGBUS.

    Raises:
        OSError: there is no room.
    """
    with path.open("wb") as file:
        if size == 0:  # an empty file cannot be mapped
            return np.zeros(0, np.uint8)
        os.posix_fallocate(file.fileno(), 0, size)
    mapped: npt.NDArray[np.uint8] = np.memmap(path, np.uint8, "r+", shape=(size,))
    return mapped


def _describe_room(folder: Path) -> str:
    """Return what is left on the disk of a folder, which may be gone by now."""
    place = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    mount = next(each for each in (place, *place.parents) if each.is_mount())
    usage = shutil.disk_usage(place)
    return f"{usage.free / 1e6:,.1f} MB of {usage.total / 1e6:,.1f} MB free, mounted at {mount}"
