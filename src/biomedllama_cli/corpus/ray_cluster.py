"""Tasks as remote functions of a Ray cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from biomedllama_cli.errors import UnavailableError, WorkerError

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_ANSWER_SECONDS = 10.0
_POLL_SECONDS = 0.5  # how long a signal may have to wait
_OBJECT_STORE_BYTES = 100 << 20  # Ray's least is 75 MiB; nothing but task numbers goes through it


def run_on_ray(
    run_task: Callable[[str, str, int], None],
    work: Path,
    token: str,
    ranks: Sequence[int],
    *,
    address: str | None,
    workers: int | None,
) -> None:
    """Run tasks on a Ray cluster whose nodes all see the work folder at the same place.

    Args:
        run_task: a function of a module that every node has, called with work folder, token and a task's number.
        work: the work folder.
        token: of the job in it (`locks.read_token`).
        ranks: numbers of the tasks.
        address: of the cluster, or None for the one at hand, or else a new one on this machine.
        workers: tasks at the same time, or None for as many as the cluster has processors.

    Raises:
        UserError: as a task raised it.
        UnavailableError: ray is not installed, or no cluster answers.
        WorkerError: a task's process or node died again and again.
    """
    ray = _import_ray()
    with _connect(ray, address, workers):
        # Retries are counted here: Ray's own go on for ever when memory is what is missing.
        remote = ray.remote(num_cpus=1, max_retries=0)(run_task)
        _Queue(ray, remote, (str(work), token), ranks).run(workers or len(ranks))


class _Queue:
    """Tasks that wait, that run, and how often each was tried."""

    def __init__(self, ray: Any, remote: Any, job: tuple[str, str], ranks: Sequence[int]) -> None:
        self._ray, self._remote, self._job = ray, remote, job
        self._waiting = deque(ranks)
        self._running: dict[Any, int] = {}
        self._attempts = dict.fromkeys(ranks, 0)

    def run(self, most: int) -> None:
        """Run all tasks, `most` at the same time; cancel the others when one fails."""
        try:
            while self._waiting or self._running:
                while self._waiting and len(self._running) < most:
                    rank = self._waiting.popleft()
                    self._attempts[rank] += 1
                    self._running[self._remote.remote(*self._job, rank)] = rank
                finished, _ = self._ray.wait(list(self._running), timeout=_POLL_SECONDS)
                for reference in finished:
                    self._settle(reference, self._running.pop(reference))
        finally:
            for reference in self._running:
                self._ray.cancel(reference, force=True)

    def _settle(self, reference: Any, rank: int) -> None:
        """Take note of a finished task; one whose process died is tried again."""
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            if self._attempts[rank] >= _ATTEMPTS:
                raise WorkerError(
                    f"Task {rank} failed {_ATTEMPTS} times on the Ray cluster: {_shorten(error)}.",
                    "Run the same command again, with a smaller --workers if memory is short: finished parts "
                    "are kept.",
                ) from None
            logger.warning("task %d is tried again: %s", rank, _shorten(error))
            self._waiting.append(rank)


def _shorten(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def check_ray() -> None:
    """Check that Ray is installed, without loading it.

    Raises:
        UnavailableError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise _refuse_without_ray()


def _import_ray() -> Any:
    check_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ImportError:  # it is there, and broken
        raise _refuse_without_ray() from None
    return ray


def _refuse_without_ray() -> UnavailableError:
    return UnavailableError(
        "executor.executor = ray, and the package ray is not installed.",
        'Install it with pip install "biomedllama-cli[ray]", on every node of the cluster.',
    )


@contextmanager
def _connect(ray: Any, address: str | None, workers: int | None) -> Iterator[None]:
    """Be connected to a cluster, starting one on this machine when none is named or at hand."""
    if ray.is_initialized():  # the program that called us has a cluster
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    found = address or _find_cluster()
    with _keep_signal_handlers():
        if found is not None:
            try:
                _check_answer(found)
                ray.init(address=found, **quiet)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise UnavailableError(
                    f"executor.ray_address = {found}: the Ray cluster cannot be used: {_shorten(error)}.",
                    "Start one with `ray start --head`, with the same versions of ray and Python and the same "
                    "RAY_AUTH_MODE as here.",
                ) from None
        else:
            logger.info("no Ray cluster at hand: starting one on this machine")
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
    try:
        yield
    finally:
        ray.shutdown()


def _find_cluster() -> str | None:
    """Return the address of the cluster that RAY_ADDRESS names, or that `ray start` began here and still answers.

    Not Ray's own search (`auto`), which also finds the private cluster of another program and dies with it.
    """
    named = os.environ.get("RAY_ADDRESS")
    if named:
        return None if named == "local" else named
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  as Ray has it
    note = Path(folder, "ray", "ray_current_cluster")
    try:
        noted = note.read_text().strip()
        _check_answer(noted)
    except (OSError, ValueError):  # what was noted is long over
        return None
    return noted


def _check_answer(address: str) -> None:
    """Check that somebody listens at an address: Ray itself asks for minutes.

    Raises:
        OSError: nobody does.
        ValueError: it is no address.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdecimal():
        raise ValueError("it is not HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()


@contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Keep the handlers for Ctrl-C and SIGTERM, of which Ray replaces one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
