"""One start of a job's processes on this node: signals forwarded, failures found, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from biomedllama_cli.engine.rank import DONE_SUFFIX, OUTCOME, STOP_SIGNALS, Outcome, die_with_parent
from biomedllama_cli.errors import ExitCode, Resumable, UserError, WorkerError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
GRACE_SECONDS = 3.0
"""How long the other ranks have to report after the first failure, whose cause may be theirs."""
IMPATIENCE = 3
"""The so-manieth signal stops the workers at once."""


class CrashError(WorkerError):
    """A process died or failed unexpectedly: what another start from the last checkpoint may mend."""


class NodeJob:
    """The agent and the workers of one start.

    Args:
        folder: where the ranks of this node report.
        ranks: of this node.
        world_size: processes on all nodes.
    """

    def __init__(self, folder: Path, ranks: range, world_size: int) -> None:
        self._folder, self._ranks, self._world_size = folder, ranks, world_size
        self._signals: list[int] = []
        self._agent: subprocess.Popen[bytes] | None = None

    def run(self, command: list[str], environment: dict[str, str]) -> None:
        """Start the workers, wait for them, and raise what went wrong."""
        with self._forwarding_signals():
            try:
                self._agent = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C reaches the launcher alone, which forwards it
                    preexec_fn=_prepare_agent,
                )
                self._wait(self._agent)
                outcomes, lost = self._read_outcomes(), self._find_lost_ranks()
            finally:
                self._stop_all()
        self._raise_failure(outcomes, lost)

    def _wait(self, agent: subprocess.Popen[bytes]) -> None:
        """Wait until the agent ends, or until enough ranks have reported a failure."""
        patience = GRACE_SECONDS
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(timeout=POLL_SECONDS)
                return
            if len(self._signals) >= IMPATIENCE or (self._signals and not self._worker_ids()):
                return
            outcomes = self._read_outcomes()
            if len(outcomes) == len(self._ranks):
                return
            # A rank that has saved waits for the others without limit; one that failed or saved nothing, a moment.
            failed = any(outcome.kind != Resumable.__name__ for outcome in outcomes)
            if failed or self._find_lost_ranks():
                patience -= POLL_SECONDS
            if patience <= 0:
                return

    def _raise_failure(self, outcomes: list[Outcome], lost: list[int]) -> None:
        assert self._agent is not None
        failures = [each for each in outcomes if each.exit_code != ExitCode.INTERRUPTED]
        if lost and not self._signals:
            raise CrashError(
                f"Rank {lost[0]} of {self._world_size} was killed before it could say why.",
                "Most often the machine was out of memory: use fewer processes or a smaller micro-batch.",
            )
        if failures:
            raise _to_error(min(failures, key=lambda outcome: outcome.time_ns), self._world_size)
        if outcomes or (self._signals and self._agent.returncode != 0):
            raise KeyboardInterrupt
        if self._agent.returncode != 0:
            raise CrashError(
                f"`accelerate launch` failed with exit code {self._agent.returncode} before all of "
                f"{len(self._ranks)} processes ran.",
                "Its messages are above.",
            )

    @contextlib.contextmanager
    def _forwarding_signals(self) -> Iterator[None]:
        def forward(number: int, frame: FrameType | None) -> None:
            self._signals.append(number)
            for worker in self._worker_ids().values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, number)

        if threading.current_thread() is not threading.main_thread():
            yield  # Python handles signals in the main thread only
            return
        previous = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _worker_ids(self) -> dict[int, int]:
        """Return the process id of every rank that has joined."""
        return {int(path.stem): int(path.read_text()) for path in self._folder.glob("*.pid")}

    def _read_outcomes(self) -> list[Outcome]:
        names = [f"{rank}.json" for rank in self._ranks]
        present = [path for name in names if (path := self._folder / name).exists()]
        return [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in present]

    def _find_lost_ranks(self) -> list[int]:
        """Return the ranks that joined and are gone without a word."""
        import psutil

        lost = []
        for rank, process_id in sorted(self._worker_ids().items()):
            running = False
            with contextlib.suppress(psutil.NoSuchProcess):
                running = psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
            # Looked at last: a rank leaves its word before it goes.
            words = (self._folder / f"{rank}.json", self._folder / f"{rank}{DONE_SUFFIX}")
            if not running and not any(word.exists() for word in words):
                lost.append(rank)
        return lost

    def _stop_all(self) -> None:
        """Kill the agent and everything under it that still runs, and wait until they are gone."""
        import psutil

        if self._agent is None:
            return
        processes = []
        for root in (self._agent.pid, *self._worker_ids().values(), *self._find_strays()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(root)
                processes += [process, *process.children(recursive=True)]
        for process in processes:  # the agent first, so that it does not report what is done here
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._agent.wait()
        psutil.wait_procs(processes, timeout=30)

    def _find_strays(self) -> list[int]:
        """Return processes of this start whose parent is gone: the agent was killed before they had joined."""
        import psutil

        strays = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(OUTCOME) == str(self._folder):
                    strays.append(process.pid)
        return strays


def _prepare_agent() -> None:
    """Tie the agent to this process, and keep it through a SIGUSR1 that a scheduler sends to all processes."""
    die_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _to_error(outcome: Outcome, processes: int) -> Exception:
    """Return the exception that a rank's failure is for the launcher."""
    if outcome.trace:
        logger.error("rank %d of %d:\n%s", outcome.rank, processes, outcome.trace.rstrip())
        return CrashError(
            f"Rank {outcome.rank} of {processes} failed: {outcome.kind}: {outcome.message}",
            "Its traceback is above.",
        )
    classes: list[type[UserError]] = [UserError, *UserError.__subclasses__()]
    kinds = {each.exit_code: each for each in classes}
    return kinds[ExitCode(outcome.exit_code)](outcome.message, outcome.hint)
