"""datatrove's local executor with workers that die with their parent and errors that come back whole."""

from __future__ import annotations

import copy
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import numpy as np
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from biomedllama_cli.corpus.locks import hold_task, read_token
from biomedllama_cli.errors import Resumable, WorkerError

_PR_SET_PDEATHSIG = 1


class StrictLocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """Run every unfinished task; one worker runs in this process, several in processes of their own.

    datatrove's own loop leaves its workers writing after the parent was killed, and waits for ever when a
    worker was. Completion markers, the order of steps and the task's arguments stay datatrove's.

    Args:
        pipeline: datatrove steps.
        tasks: parts of the input.
        workers: processes at the same time.
        folder: for the completion markers, in the work folder.
        token: `locks.read_token` of the job that the tasks belong to.
    """

    def __init__(
        self, pipeline: list[PipelineStep], *, tasks: int, workers: int, folder: Path, token: str
    ) -> None:
        super().__init__(
            pipeline,
            tasks=tasks,
            workers=workers,
            logging_dir=str(folder),
            skip_completed=True,
        )
        self.work, self.token = folder.parent, token

    def run(self) -> None:
        """Run the tasks that have no completion marker.

        Raises:
            UserError: as a task raised it.
            WorkerError: a worker process died.
        """
        ranks = self.get_incomplete_ranks(range(self.tasks))
        if self.workers == 1:
            for rank in ranks:
                self.run_rank(rank)
            return
        # Spawned, not forked: the parent has threads (progress, tokenizers).
        pool = ProcessPoolExecutor(
            min(self.workers, max(len(ranks), 1)),
            multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(os.getpid(), self),  # once per process: the list of millions of inputs is part of it
        )
        workers: list[BaseProcess] = []
        try:
            futures = [pool.submit(_run_rank, rank) for rank in ranks]
            workers = list((getattr(pool, "_processes", None) or {}).values())
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        except BrokenProcessPool:
            raise _explain_death(workers) from None
        finally:
            for process in workers:
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)

    def run_rank(self, rank: int) -> None:
        """Run one task, unless it is finished, as its only writer.

        Raises:
            UserError: as the task raised it.
            WorkerError: another process holds the task, or the job is over.
        """
        with hold_task(self.work, rank, self.token):
            # A copy for each task, since steps keep statistics.
            copy.deepcopy(self)._run_for_rank(rank)


def run_tasks(pipeline: list[PipelineStep], *, tasks: int, workers: int, folder: Path) -> int:
    """Run a pipeline over all tasks on this machine and return how many of them were finished before.

    Args:
        pipeline: datatrove steps.
        tasks: parts of the input.
        workers: processes at the same time.
        folder: for datatrove's completion markers, in the work folder.
    """
    finished = tasks - len(list_missing(folder, tasks))
    make_marks_folder(folder)
    StrictLocalExecutor(
        pipeline, tasks=tasks, workers=min(workers, tasks), folder=folder, token=read_token(folder.parent)
    ).run()
    return finished


def make_marks_folder(folder: Path) -> None:
    """Make the folders of datatrove's markers, which many tasks would make at the same time."""
    for name in ("completions", "logs", "stats"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def list_missing(folder: Path, tasks: int) -> list[int]:
    """Return the numbers of the tasks that have no completion marker, in order."""
    finished = {marker.name for marker in folder.glob("completions/*")}
    return [rank for rank in range(tasks) if f"{rank:05d}" not in finished]


def forget_lost_tasks(folder: Path, is_there: Callable[[int], bool]) -> None:
    """Remove the completion markers of tasks whose output is not there."""
    for marker in folder.glob("completions/*"):
        if not is_there(int(marker.name)):
            marker.unlink()


@contextmanager
def watch_progress(path: Path, tasks: int, on_progress: Callable[[int], None]) -> Iterator[None]:
    """Tell `on_progress` the bytes of input that tasks consume, as they note them in the file `path`.

    Args:
        path: file of one uint64 per task; made when missing.
        tasks: number of tasks.
        on_progress: told the increase, from a thread.
    """
    if not path.exists() or path.stat().st_size != 8 * tasks:
        path.write_bytes(bytes(8 * tasks))
    positions = np.memmap(path, np.uint64, "r", shape=(tasks,))
    stop = threading.Event()
    told = 0

    def look() -> None:
        nonlocal told
        now = int(positions.sum())
        if now > told:
            on_progress(now - told)
            told = now

    def watch() -> None:
        while not stop.wait(0.5):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()


@contextmanager
def resumable_on_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Resumable`; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Resumable(
            f"Stopped by {signal.Signals(number).name}; the finished parts are kept.",
            "Run the same command again to go on.",
        )

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explain_death(workers: list[BaseProcess]) -> WorkerError:
    """Return the error for a pool of which a worker died; the pool itself ends the others with SIGTERM."""
    for process in workers:
        process.join(5)
    codes = [process.exitcode for process in workers if process.exitcode not in (0, None, -signal.SIGTERM)]
    if -signal.SIGBUS in codes:  # what a write to mapped memory becomes when there is no room for it
        return WorkerError(
            "A worker process of prepare died of SIGBUS; its disk is probably full.",
            "Make room and run the same command again: finished parts are kept.",
        )
    return WorkerError(
        "A worker process of prepare died; it was probably killed for want of memory.",
        "Run the same command again with a smaller --workers: finished parts are kept.",
    )


_executor: StrictLocalExecutor | None = None
"""In a worker: what it runs."""


def _run_rank(rank: int) -> None:
    assert _executor is not None
    _executor.run_rank(rank)


def _begin_worker(parent: int, executor: StrictLocalExecutor) -> None:
    """Let Ctrl-C to the parent alone, and die with it."""
    global _executor
    _executor = executor
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
