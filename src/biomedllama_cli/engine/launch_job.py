"""One start of a job's processes on this node: signals forwarded, failures found, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil  # at once: a signal amid a later import would find half of it

from biomedllama_cli.engine.job_signals import JobSignals
from biomedllama_cli.engine.node_links import NodeLink
from biomedllama_cli.engine.rank import DONE_SUFFIX, OUTCOME, Outcome, die_with_parent
from biomedllama_cli.engine.signals import StoppedAlone
from biomedllama_cli.errors import ExitCode, Resumable, UserError, WorkerError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
GRACE_SECONDS = 3.0
"""How long the other ranks have to report after the first failure, whose cause may be theirs."""
LEAVE_SECONDS = 60.0
"""How long ranks that have done everything have to leave; a library may hang or crash in its farewell."""
IMPATIENCE = 3
"""The so-manieth signal stops the workers at once."""
LAST_WORD_SECONDS = 1.0
"""How long the ranks have to report after another node has said to stop."""


class CrashError(WorkerError):
    """A process died or failed unexpectedly: what another start from the last checkpoint may mend.

    Args:
        message: one sentence.
        hint: what to do about it.
        trace: the traceback, or an empty string.
        killed: whether the process left no word.
    """

    def __init__(self, message: str, hint: str = "", trace: str = "", *, killed: bool = False) -> None:
        super().__init__(message, hint)
        self.trace, self.killed = trace, killed


class OthersFailedError(Exception):
    """The processes of this node were stopped because those of another failed."""


class NodeJob:
    """The agent and the workers of one start.

    Args:
        folder: where the ranks of this node report.
        ranks: of this node.
        world_size: processes on all nodes.
        signals: that reach the launcher.
        link: to the other nodes.
    """

    def __init__(
        self, folder: Path, ranks: range, world_size: int, *, signals: JobSignals, link: NodeLink
    ) -> None:
        self._folder, self._ranks, self._world_size = folder, ranks, world_size
        self._signals, self._link = signals, link
        self._agent: subprocess.Popen[bytes] | None = None
        self.noticed: float | None = None
        """When something was seen to be wrong, on the monotonic clock."""

    def run(self, command: list[str], environment: dict[str, str]) -> None:
        """Start the workers, wait for them, and raise what went wrong."""
        with self._signals.forwarded_to(self._running_workers):
            try:
                self._agent = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C reaches the launcher alone, which forwards it
                    preexec_fn=_prepare_agent,
                )
                told = self._wait(self._agent)
                left = self._agent.poll()
                outcomes, lost = self._read_outcomes(), self._find_lost_ranks()
            finally:
                self._stop_all()
        if not outcomes and self._are_all_done():
            if left != 0:
                how = "had to be stopped" if left is None else f"left with exit code {left}"
                logger.warning("all processes have done their work, but `accelerate launch` %s", how)
            return
        if told and not outcomes and not lost:
            raise OthersFailedError
        self._raise_failure(outcomes, lost)

    def _wait(self, agent: subprocess.Popen[bytes]) -> bool:
        """Wait until the agent ends, or until enough ranks have reported a failure, or other nodes have.

        Returns:
            Whether other nodes have said to stop.
        """
        patience, told, numbers = GRACE_SECONDS, False, self._signals.numbers
        leave = LEAVE_SECONDS
        while True:
            if not told and self._link.others_failed():
                told, patience = True, min(patience, LAST_WORD_SECONDS)
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(timeout=POLL_SECONDS)
                self._notice()
                self._let_ranks_end(agent)
                return told
            if len(numbers) >= IMPATIENCE or (numbers and not self._worker_ids()):
                return told
            outcomes = self._read_outcomes()
            if len(outcomes) == len(self._ranks):
                return told
            # A rank that has saved waits for the others without limit; one that failed or saved nothing, a moment.
            failed = any(outcome.kind != Resumable.__name__ for outcome in outcomes)
            if failed or self._find_lost_ranks():
                self._notice()
                patience -= POLL_SECONDS
            elif told:
                patience -= POLL_SECONDS
            elif self._are_all_done():
                leave -= POLL_SECONDS
            if min(patience, leave) <= 0:
                return told

    def _let_ranks_end(self, agent: subprocess.Popen[bytes]) -> None:
        """Wait for the ranks of an agent that has failed: killed with it, they may die a little later."""
        end = time.monotonic() + GRACE_SECONDS
        while agent.returncode != 0 and self._worker_ids() and time.monotonic() < end:
            if self._find_lost_ranks() or self._read_outcomes() or self._are_all_done():
                return
            time.sleep(POLL_SECONDS)

    def _notice(self) -> None:
        if self.noticed is None:
            self.noticed = time.monotonic()

    def _raise_failure(self, outcomes: list[Outcome], lost: list[int]) -> None:
        assert self._agent is not None
        failures = [each for each in outcomes if each.exit_code != ExitCode.INTERRUPTED]
        if lost and not self._signals.numbers:
            raise CrashError(
                f"Rank {lost[0]} of {self._world_size} was killed before it could say why.",
                "Most often the machine was out of memory: use fewer processes or a smaller micro-batch.",
                killed=True,
            )
        if failures:
            raise _to_error(min(failures, key=lambda outcome: outcome.time_ns), self._world_size)
        if outcomes or (self._signals.numbers and self._agent.returncode != 0):
            raise KeyboardInterrupt
        if self._agent.returncode != 0:
            raise CrashError(
                f"`accelerate launch` failed with exit code {self._agent.returncode} before all of "
                f"{len(self._ranks)} processes ran.",
                "Its messages are above.",
            )

    def _worker_ids(self) -> dict[int, int]:
        """Return the process id of every rank that has joined."""
        return {int(path.stem): int(path.read_text()) for path in self._folder.glob("*.pid")}

    def _are_all_done(self) -> bool:
        """Return whether every rank of this node has said that it did all it had to."""
        return all((self._folder / f"{rank}{DONE_SUFFIX}").exists() for rank in self._ranks)

    def _read_outcomes(self) -> list[Outcome]:
        names = [f"{rank}.json" for rank in self._ranks]
        present = [path for name in names if (path := self._folder / name).exists()]
        return [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in present]

    def _find_lost_ranks(self) -> list[int]:
        """Return the ranks that joined and are gone without a word."""
        lost = []
        for rank, process_id in sorted(self._worker_ids().items()):
            running = self._is_running(process_id)
            # Looked at last: a rank leaves its word before it goes.
            words = (self._folder / f"{rank}.json", self._folder / f"{rank}{DONE_SUFFIX}")
            if not running and not any(word.exists() for word in words):
                lost.append(rank)
        return lost

    def _running_workers(self) -> list[int]:
        """Return the process ids of the ranks that have joined and still run."""
        return [process_id for process_id in self._worker_ids().values() if self._is_running(process_id)]

    def _is_running(self, process_id: int) -> bool:
        """Return whether a process runs and is of this start: the system gives ids of ended ones to others."""
        try:
            process = psutil.Process(process_id)
            return process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process)
        except psutil.AccessDenied:
            return True  # one that hides its environment
        except (psutil.Error, OSError):
            return False

    def _stop_all(self) -> None:
        """Kill the agent and everything under it that still runs, and wait until they are gone."""
        if self._agent is None:
            return
        processes = []
        agent = [self._agent.pid] if self._agent.poll() is None else []  # ended, its id may be another's
        for root in (*agent, *self._running_workers(), *self._find_strays()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(root)
                processes += [process, *process.children(recursive=True)]
        for process in processes:  # the agent first, so that it does not report what is done here
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._agent.wait()
        psutil.wait_procs(processes, timeout=30)

    def _find_strays(self) -> list[int]:
        """Return processes of this start whose parent is gone: the agent was killed before they had joined."""
        strays = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and self._is_ours(process):
                    strays.append(process.pid)
        return strays

    def _is_ours(self, process: psutil.Process) -> bool:
        return bool(process.environ().get(OUTCOME) == str(self._folder))


def _prepare_agent() -> None:
    """Tie the agent to this process, and keep it through a SIGUSR1 that a scheduler sends to all processes."""
    die_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _to_error(outcome: Outcome, processes: int) -> Exception:
    """Return the exception that a rank's failure is for the launcher."""
    if outcome.trace:
        return CrashError(
            f"Rank {outcome.rank} of {processes} failed: {outcome.kind}: {outcome.message}",
            "Its traceback is above.",
            f"rank {outcome.rank} of {processes}:\n{outcome.trace.rstrip()}",
        )
    kind = StoppedAlone if outcome.kind == StoppedAlone.__name__ else error_class(outcome.exit_code)
    return kind(outcome.message, outcome.hint)


def error_class(exit_code: int) -> type[UserError]:
    """Return the error that has an exit code.

    >>> error_class(3).__name__
    'DataError'
    """
    classes: list[type[UserError]] = [UserError, *UserError.__subclasses__()]
    return {each.exit_code: each for each in classes}[ExitCode(exit_code)]
