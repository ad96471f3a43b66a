"""Who may write in a work folder: locks that hold between processes and between machines with a shared folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from biomedllama_cli.errors import OutputError, WorkerError

JOB_FILE = "job.json"
WRITERS_FILE = "writers"
_LOCKS_FOLDER = "locks"
_POLL_SECONDS = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LockTakenError(Exception):
    """Another process holds the lock; its text is what that process wrote into the file."""


@contextmanager
def hold_lock(path: Path, *, shared: bool = False, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold an advisory lock (flock) on a file, which is made when missing; yield its descriptor.

    Args:
        path: the lock file; its folder must exist.
        shared: whether others may hold it in the same way at the same time.
        wait_seconds: how long to wait for others.

    Raises:
        LockTakenError: others still hold it.
        OutputError: the file system has no locks.
        OSError: the file cannot be made, for example because its folder is gone.
    """
    until = time.monotonic() + wait_seconds
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = _try_lock(handle, path, shared=shared)
            if locked and _is_same_file(handle, path):
                yield handle
                return
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
        finally:
            os.close(handle)
        if not locked:  # else it was removed between opening and locking: a new file is another lock
            if time.monotonic() >= until:
                raise LockTakenError(holder)
            time.sleep(_POLL_SECONDS)


def _try_lock(handle: int, path: Path, *, shared: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise OutputError(
                f"The file system of {path.parent} has no locks ({error.strerror}).",
                "Work on one that has: NFS 4, or Lustre mounted with -o flock.",
            ) from None
        raise
    return True


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def read_token(work: Path) -> str:
    """Return the short hash by which a task knows whether the job in a work folder is its own; empty for no job."""
    try:
        return hashlib.sha256((work / JOB_FILE).read_bytes()).hexdigest()[:16]
    except (FileNotFoundError, NotADirectoryError):
        return ""


@contextmanager
def hold_task(work: Path, rank: int, token: str, *, wait_seconds: float = 60.0) -> Iterator[None]:
    """Be the only writer of one task, wherever the others run.

    Three things make it so: a shared lock on the whole folder, which keeps everybody from emptying it; the task's
    own lock; and the job's identity, compared after both are held.

    Args:
        work: the work folder.
        rank: number of the task.
        token: `read_token` of the job that the task belongs to.
        wait_seconds: how long to wait for a process that holds the task.

    Raises:
        WorkerError: another process holds the task, or the folder is gone or another job's by now.
    """
    check_token(work, token)
    try:
        with hold_lock(work / WRITERS_FILE, shared=True, wait_seconds=wait_seconds):
            check_token(work, token)
            (work / _LOCKS_FOLDER).mkdir(exist_ok=True)
            with hold_lock(work / _LOCKS_FOLDER / f"{rank:05d}", wait_seconds=wait_seconds) as handle:
                _sign(handle)
                yield
    except LockTakenError as taken:
        raise WorkerError(
            f"Task {rank} of {work} is being done by another process ({str(taken) or 'unknown'}).",
            "Wait for it; tasks that are finished are not done again.",
        ) from None


def check_token(work: Path, token: str) -> None:
    """Check that the job in a work folder is the one with this token.

    Raises:
        WorkerError: it is another, or none.
    """
    if not token or read_token(work) != token:
        raise WorkerError(
            f"The job of {work} has ended or was replaced, so nothing of it is left to do.",
            "Run prepare again if its corpus is not there.",
        )


def _sign(handle: int) -> None:
    """Write who holds a lock into it, for the message to whoever waits."""
    job = os.environ.get("SLURM_JOB_ID")
    name = f"{socket.gethostname()}, process {os.getpid()}" + (f", Slurm job {job}" if job else "")
    os.ftruncate(handle, 0)
    os.pwrite(handle, name.encode(), 0)
