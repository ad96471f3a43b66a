"""Start the processes of a node through `accelerate launch`, once, and answer for them.

    biomedllama (the launcher)  ->  accelerate launch (its agent)  ->  one worker per rank, the same command again

The launcher forwards signals to the workers, shows the error of the rank that failed first, exits with that
error's code, and leaves no process behind, however it ends itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from biomedllama_cli.engine.rank import (
    DONE_SUFFIX,
    EXPECTED_WORLD_SIZE,
    LAUNCHER,
    OUTCOME,
    Outcome,
    die_with_parent,
    find_outer_launcher,
    join_launcher,
    slurm_to_torch,
)
from biomedllama_cli.engine.sharding import World, choose_mesh
from biomedllama_cli.errors import ExitCode, Resumable, SettingsError, UserError, WorkerError
from biomedllama_cli.settings.pretrain import ParallelSettings

logger = logging.getLogger(__name__)

MODULE = "biomedllama_cli"
"""What every process runs, with `python -m`."""
POLL_SECONDS = 0.1
GRACE_SECONDS = 3.0
"""How long the other ranks have to report after the first failure, whose cause may be theirs."""
IMPATIENCE = 3
"""The so-manieth signal stops the workers at once."""


def launch_if_needed(parallel: ParallelSettings, arguments: Sequence[str]) -> int | None:
    """Start this command once per process of this node, unless this process is already one of a job.

    Args:
        parallel: of the command; how many processes follows from it.
        arguments: the command line after `biomedllama`, given to every process.

    Returns:
        None where the caller shall go on itself: in one process, or as one rank of a job (then torch's
        variables RANK, WORLD_SIZE, ... are set). Else success: the processes have done the work.

    Raises:
        SettingsError: the processes or the mesh do not fit this machine.
        UserError: the error of the rank that failed first.
        WorkerError: a rank failed unexpectedly or was killed.
        KeyboardInterrupt: stopped by a signal with nothing to save.
    """
    if OUTCOME in os.environ:
        join_launcher(os.environ)
        return None
    outer = find_outer_launcher(os.environ)
    if outer == "srun":
        os.environ.update(slurm_to_torch(os.environ))
    if outer is not None:
        logger.debug("started by %s: not launching again", outer)
        return None
    processes = count_processes(parallel)
    if processes == 1:
        return None
    choose_mesh(parallel, World(processes, processes))
    on_cpu = parallel.device == "cpu" or count_gpus() == 0
    logger.info("starting %d processes on %s", processes, "CPUs" if on_cpu else "GPUs")
    with tempfile.TemporaryDirectory(prefix="biomedllama-") as name:
        _Job(Path(name), processes).run(
            build_command(Path(name), processes, arguments), build_environment(Path(name), processes, on_cpu)
        )
    return ExitCode.SUCCESS


def count_processes(parallel: ParallelSettings) -> int:
    """Return how many processes this node shall run.

    Raises:
        SettingsError: more than its GPUs.
    """
    asked = parallel.num_processes
    if parallel.device == "cpu":
        return asked or 1
    gpus = count_gpus()
    if asked is not None and asked > 1 and (asked > gpus > 0 or (parallel.device == "cuda" and asked > gpus)):
        raise SettingsError(
            f"num_processes is {asked}, but must be at most the number of GPUs here, which is {gpus}.",
            "Use --device cpu to compute on CPUs.",
        )
    return asked or gpus or 1


def count_gpus() -> int:
    """Return the CUDA devices this process may use; torch is loaded only where there is a driver."""
    drivers = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("dxg"), *Path("/dev").glob("kfd")]
    if not drivers:
        return 0
    import torch

    return torch.cuda.device_count()


def build_command(folder: Path, processes: int, arguments: Sequence[str]) -> list[str]:
    """Return the `accelerate launch` command.

    `--multi_gpu` is Accelerate's way through torchrun and works for CPUs as well: `--cpu --num_processes 4` would
    silently start one process. The configuration file is our own, so that the one a user once wrote with
    `accelerate config` changes nothing.
    """
    configuration = folder / "accelerate.json"
    fixed = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "mixed_precision": "no"}
    sizes = {"num_processes": processes, "num_machines": 1, "machine_rank": 0}
    content = {**fixed, **sizes, "use_cpu": False, "debug": False}
    configuration.write_text(json.dumps(content), encoding="utf-8")
    options = [
        *("--config_file", str(configuration)),
        "--multi_gpu",
        *("--num_processes", str(processes)),
        *("--num_machines", "1"),
        *("--mixed_precision", "no"),
        *("--dynamo_backend", "no"),
        *("--main_process_port", "0"),  # any free one
    ]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return [*launch, "--module", MODULE, *arguments]


def build_environment(folder: Path, processes: int, on_cpu: bool) -> dict[str, str]:
    """Return the environment of the agent and its workers."""
    environment = {
        # A share of the cores each: torchrun's own default is one thread.
        "OMP_NUM_THREADS": str(max(1, count_cores() // processes)),
        # How long the agent waits for ranks that save after a signal (in seconds); its own default is 30.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600",
        # A worker that dies of a native library shows where it was.
        "PYTHONFAULTHANDLER": "1",
        **os.environ,
        EXPECTED_WORLD_SIZE: str(processes),
        OUTCOME: str(folder),
        LAUNCHER: str(os.getpid()),
    }
    if on_cpu:
        environment["ACCELERATE_USE_CPU"] = "true"
        if sys.platform == "linux":  # one machine: gloo need not resolve its name
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def count_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Job:
    """The agent and the workers of one launch."""

    def __init__(self, folder: Path, processes: int) -> None:
        self._folder, self._processes = folder, processes
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
                    preexec_fn=die_with_parent,
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
            if len(outcomes) == self._processes:
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
            raise WorkerError(
                f"Rank {lost[0]} of {self._processes} was killed before it could say why.",
                "Most often the machine was out of memory: use fewer processes or a smaller micro-batch.",
            )
        if failures:
            raise _to_error(min(failures, key=lambda outcome: outcome.time_ns), self._processes)
        if outcomes or self._signals:
            raise KeyboardInterrupt
        if self._agent.returncode != 0:
            raise WorkerError(
                f"`accelerate launch` failed with exit code {self._agent.returncode} before all of "
                f"{self._processes} processes ran.",
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
        previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _worker_ids(self) -> dict[int, int]:
        """Return the process id of every rank that has joined."""
        return {int(path.stem): int(path.read_text()) for path in self._folder.glob("*.pid")}

    def _read_outcomes(self) -> list[Outcome]:
        names = [f"{rank}.json" for rank in range(self._processes)]
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
        for root in (self._agent.pid, *self._worker_ids().values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(root)
                processes += [process, *process.children(recursive=True)]
        for process in processes:  # the agent first, so that it does not report what is done here
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._agent.wait()
        psutil.wait_procs(processes, timeout=30)


def _to_error(outcome: Outcome, processes: int) -> Exception:
    """Return the exception that a rank's failure is for the launcher."""
    if outcome.trace:
        logger.error("rank %d of %d:\n%s", outcome.rank, processes, outcome.trace.rstrip())
        return WorkerError(
            f"Rank {outcome.rank} of {processes} failed: {outcome.kind}: {outcome.message}",
            "Its traceback is above.",
        )
    classes: list[type[UserError]] = [UserError, *UserError.__subclasses__()]
    kinds = {each.exit_code: each for each in classes}
    return kinds[ExitCode(outcome.exit_code)](outcome.message, outcome.hint)
