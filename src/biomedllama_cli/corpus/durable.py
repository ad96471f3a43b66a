"""Files that are there whole or not at all, and stay after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def name_temporary(path: Path) -> Path:
    """Return where a file or a folder is written before it is whole."""
    return path.with_name(f".{path.name}.tmp")


def write_atomically(path: Path, text: str, *, flush: bool = True) -> None:
    """Write a text file (UTF-8) so that a reader sees the old content or the new, never a part.

    Args:
        path: the file.
        text: its content.
        flush: put it on the disk; without that a machine that dies may lose it, a process may not.
    """
    temporary = name_temporary(path)
    temporary.unlink(missing_ok=True)  # a link of that name would be followed
    with temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        if flush:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def flush_path(path: Path) -> None:
    """Make a file or a folder's list of names survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """Flush everything under a folder."""
    for entry in sorted(folder.rglob("*")):
        flush_path(entry)
    flush_path(folder)
