"""Files that their owner alone can read: what is said to a model may be about a person."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from biomedllama_cli.corpus.durable import flush_path
from biomedllama_cli.errors import OutputError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_POLL_SECONDS = 0.05
_ELSEWHERE = "Name another file."


def open_private(path: Path) -> TextIO:
    """Open a text file (UTF-8), to be written at its end, that its owner alone can read, from its first byte on.

    Folders that are missing are made, for the owner alone; a file that is there already and that others may read is
    closed to them before anything is written.

    Args:
        path: the file; what it holds stays.

    Raises:
        OutputError: it is no ordinary file of this user, a symbolic link, or cannot be written.
    """
    make_private_folder(path.parent)
    # A link could lead what is written elsewhere; without O_NONBLOCK a named pipe would wait for its reader forever.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(path, flags, FILE_MODE)
    except OSError as error:
        check_private(path)  # says it better where the path is a link, a folder, a pipe, ...
        raise _cannot_write(path, error) from error
    try:
        _check_own(path, os.fstat(handle))
        # An older file may be wider, and the umask may have made a new one narrower.
        os.fchmod(handle, FILE_MODE)
        return open(handle, "w", encoding="utf-8", newline="\n")
    except OSError as error:
        os.close(handle)
        raise _cannot_write(path, error) from error
    except BaseException:
        os.close(handle)
        raise


def write_private(path: Path, content: str | Iterable[str]) -> None:
    """Write a text file (UTF-8) for its owner alone, so that a reader sees the old content or the new, never a part.

    Args:
        path: the file.
        content: of it, whole or in parts; what goes wrong between them leaves the old content.

    Raises:
        OutputError: as `open_private`; the old content stands.
    """
    make_private_folder(path.parent)
    check_private(path)
    try:  # mkstemp makes the file with 0600, less what the umask takes away
        handle, name = tempfile.mkstemp(prefix=".biomedllama-", dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = Path(name)
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.writelines([content] if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        with suppress(OSError):  # the name survives a power cut where the file system can do that
            flush_path(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)  # it is gone already where all went well


def make_private_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, for the owner alone; those that are there stay as they are.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(FOLDER_MODE, exist_ok=True)
        if not folder.is_dir():
            raise NotADirectoryError(0, "it is no folder")
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.", _ELSEWHERE) from error


def check_private(path: Path) -> None:
    """Check that a file that is to be written is an ordinary one of this user, or is not there yet.

    Raises:
        OutputError: it is something else.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_write(path, error) from error
    _check_own(path, found)


def check_folder(folder: Path) -> None:
    """Check that files can be made in a folder, or that it can be made itself; nothing is made.

    Raises:
        OutputError: they cannot.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise OutputError(f"The folder {folder} cannot be made: {there} is no folder.", _ELSEWHERE)
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"Files cannot be made in {there}: Permission denied.", _ELSEWHERE)


@contextmanager
def be_only_writer(path: Path, wait_seconds: float = 10.0) -> Iterator[None]:
    """Keep other processes that ask in the same way from writing a file between reading and replacing it.

    The lock lies on the file's folder, which stays the same when the file is replaced and needs no file of its own. A
    file system without locks is worked on without one.

    Args:
        path: the file; its folder must exist.
        wait_seconds: how long to wait for another process.

    Raises:
        OutputError: another process keeps it.
    """
    try:
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        until = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise OutputError(
                        f"{path} is being written by another process.", "Wait for it, or name another file."
                    ) from None
                time.sleep(_POLL_SECONDS)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(handle)


def _check_own(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OutputError(
            f"{path} is a symbolic link; what is private is written to ordinary files only.",
            "Name the file that it leads to.",
        )
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(
            f"{path} is no ordinary file; what is private is written to such files only.", _ELSEWHERE
        )
    if found.st_uid != os.geteuid():
        raise OutputError(
            f"{path} belongs to another user, who could read what is written there.", _ELSEWHERE
        )


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror or error}.", _ELSEWHERE)
