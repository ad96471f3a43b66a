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
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from biomedllama_cli.engine.first_node import FirstNode
from biomedllama_cli.engine.job_signals import JobSignals
from biomedllama_cli.engine.launch_job import CrashError, NodeJob, OthersFailedError
from biomedllama_cli.engine.node_endings import describe_ending, to_error
from biomedllama_cli.engine.node_links import AloneLink, NodeLink
from biomedllama_cli.engine.other_node import OtherNode
from biomedllama_cli.engine.rank import (
    EXPECTED_WORLD_SIZE,
    LAUNCHER,
    OUTCOME,
    check_tasks,
    find_outer_launcher,
    find_rank,
    join_launcher,
    slurm_to_torch,
)
from biomedllama_cli.engine.rendezvous import check_nodes, choose_interface
from biomedllama_cli.engine.sharding import World, choose_mesh
from biomedllama_cli.errors import ExitCode, SettingsError, UserError
from biomedllama_cli.settings.pretrain import ParallelSettings

logger = logging.getLogger(__name__)

MODULE = "biomedllama_cli"
"""What every process runs, with `python -m`."""


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
    place = check_nodes(parallel)
    outer = find_outer_launcher(os.environ)
    if outer == "srun" and place is not None:
        check_tasks(os.environ, parallel.nodes)
        outer = None  # one task on each node, told which node it is: a launcher
    if outer == "srun":
        os.environ.update(slurm_to_torch(os.environ))
    if place is not None:
        choose_interface(*place)
    if outer is not None:
        logger.debug("started by %s: not launching again", outer)
        if parallel.max_restarts and find_rank(os.environ) == 0:
            logger.warning(
                "max_restarts is %d, but only processes that this command starts itself are started again; these "
                "were started by %s, which has its own option for that",
                *(parallel.max_restarts, outer),
            )
        return None
    processes = count_processes(parallel)
    if processes * parallel.nodes == 1 and parallel.max_restarts == 0:
        return None
    choose_mesh(parallel, World(processes * parallel.nodes, processes))
    _start_again_and_again(parallel, processes, place, arguments)
    return ExitCode.SUCCESS


def _start_again_and_again(
    parallel: ParallelSettings, processes: int, place: tuple[str, int] | None, arguments: Sequence[str]
) -> None:
    """Run the job, and after a crash again from its newest checkpoint, as often as is allowed.

    With several nodes, all launchers agree on the cause, and start again together.
    """
    node, attempt = parallel.node_rank or 0, 0
    with (
        JobSignals() as signals,
        contextlib.closing(open_link(parallel, place, processes, lambda: len(signals.numbers))) as link,
    ):
        while True:
            attempt = link.start_together(attempt)
            again = ["--resume", "auto"] if attempt else []
            error, noticed = _start(parallel, processes, [*arguments, *again], signals, link)
            cause = link.agree(replace(describe_ending(error, node, noticed), asked=signals.came))
            error = to_error(cause, error, node, parallel.nodes)
            if error is None:
                return
            if isinstance(error, CrashError) and error.trace:
                logger.error("%s", error.trace)
            if not isinstance(error, CrashError) or attempt >= parallel.max_restarts or cause.asked:
                raise error
            attempt += 1
            logger.warning(
                "%s Starting again from the newest checkpoint (restart %d of %d)",
                *(error.message, attempt, parallel.max_restarts),
            )


def open_link(
    parallel: ParallelSettings,
    place: tuple[str, int] | None,
    processes: int,
    count_signals: Callable[[], int],
) -> NodeLink:
    """Return the link to the launchers of the other nodes.

    Raises:
        SettingsError: node 0 cannot listen.
    """
    if place is None:
        return AloneLink()
    host, port = place[0], place[1] + 1
    if parallel.node_rank == 0:
        return FirstNode(parallel, port, processes, count_signals)
    return OtherNode(parallel, (host, port), processes, count_signals)


def _start(
    parallel: ParallelSettings,
    processes: int,
    arguments: Sequence[str],
    signals: JobSignals,
    link: NodeLink,
) -> tuple[BaseException | None, float | None]:
    """Run the job once, as this node's part of it; return what went wrong, and when it was noticed."""
    first = (parallel.node_rank or 0) * processes
    world_size = processes * parallel.nodes
    on_cpu = parallel.device == "cpu" or count_gpus() == 0
    kind = "CPU" if on_cpu else "GPU"
    logger.info(
        "starting %d %s", processes, f"process on a {kind}" if processes == 1 else f"processes on {kind}s"
    )
    with tempfile.TemporaryDirectory(prefix="biomedllama-") as name:
        job = NodeJob(Path(name), range(first, first + processes), world_size, signals=signals, link=link)
        try:
            job.run(
                build_command(Path(name), parallel, processes, arguments),
                build_environment(Path(name), processes, on_cpu, nodes=parallel.nodes),
            )
        except (UserError, OthersFailedError, KeyboardInterrupt) as error:
            return error, job.noticed
    return None, None


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


def build_command(
    folder: Path, parallel: ParallelSettings, processes: int, arguments: Sequence[str]
) -> list[str]:
    """Return the `accelerate launch` command; a job of one process needs none.

    `--multi_gpu` is Accelerate's way through torchrun and works for CPUs as well: `--cpu --num_processes 4` would
    silently start one process. The configuration file is our own, so that the one a user once wrote with
    `accelerate config` changes nothing.
    """
    if processes * parallel.nodes == 1:
        return [sys.executable, "-m", MODULE, *arguments]
    configuration = folder / "accelerate.json"
    fixed = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "mixed_precision": "no"}
    sizes = {"num_processes": processes, "num_machines": 1, "machine_rank": 0}
    content = {**fixed, **sizes, "use_cpu": False, "debug": False}
    configuration.write_text(json.dumps(content), encoding="utf-8")
    options = ["--config_file", str(configuration), *build_options(parallel, processes)]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, "--module", MODULE, *arguments]


def build_options(parallel: ParallelSettings, processes: int) -> list[str]:
    """Return the options of `accelerate launch` for a job of several processes, as this node starts it."""
    place = check_nodes(parallel)
    port = place[1] if place else 0  # 0: any free one
    options = [
        "--multi_gpu",
        *("--num_processes", str(processes * parallel.nodes)),
        *("--num_machines", str(parallel.nodes)),
        *("--machine_rank", str(parallel.node_rank or 0)),
        *("--mixed_precision", "no"),
        *("--dynamo_backend", "no"),
        *("--main_process_port", str(port)),
    ]
    return [*options, "--same_network", "--main_process_ip", place[0]] if place else options


def build_environment(folder: Path, processes: int, on_cpu: bool, *, nodes: int = 1) -> dict[str, str]:
    """Return the environment of the agent and its workers."""
    return {
        **os.environ,
        **choose_variables(processes, on_cpu, nodes=nodes),
        EXPECTED_WORLD_SIZE: str(processes * nodes),
        OUTCOME: str(folder),
        LAUNCHER: str(os.getpid()),
    }


def choose_variables(processes: int, on_cpu: bool, *, nodes: int) -> dict[str, str]:
    """Return what torch and Accelerate are told by their own variables; those that the user has set stay."""
    chosen = {
        # A share of the cores each: torchrun's own default is one thread.
        "OMP_NUM_THREADS": str(max(1, count_cores() // processes)),
        # How long the agent waits for ranks that save after a signal (in seconds); its own default is 30.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600",
        # A worker that dies of a native library shows where it was.
        "PYTHONFAULTHANDLER": "1",
    }
    if on_cpu and sys.platform == "linux" and nodes == 1:  # one machine: gloo need not resolve its name
        chosen["GLOO_SOCKET_IFNAME"] = "lo"
    chosen = {name: os.environ.get(name, value) for name, value in chosen.items()}
    return {**chosen, "ACCELERATE_USE_CPU": "true"} if on_cpu else chosen


def count_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
