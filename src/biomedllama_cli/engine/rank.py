"""What one process knows of the job it belongs to: who started it, its rank, and how it reports its end.

No torch here: the command line asks these questions before it loads anything.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from biomedllama_cli.corpus.durable import write_atomically
from biomedllama_cli.errors import ExitCode, SettingsError, UserError

EXPECTED_WORLD_SIZE = "_BIOMEDLLAMA_EXPECTED_WORLD_SIZE"
"""Set by our own launcher: the number of processes it was asked for."""
OUTCOME = "_BIOMEDLLAMA_OUTCOME"
"""Set by our own launcher: the folder where each rank writes its process id, and how it ended."""
DONE_SUFFIX = ".done"
"""Of the empty file there, named by its rank, of a rank that ended well."""
LAUNCHER = "_BIOMEDLLAMA_LAUNCHER"
"""Set by our own launcher: its process id."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What asks for the end; Slurm and others send SIGUSR1 before the time is over or the place is taken."""

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """How a rank ended, when it did not end well.

    Attributes:
        rank: of the process.
        time_ns: when, in nanoseconds since the epoch; the first failure is the cause of the others.
        exit_code: what the process would have exited with.
        kind: name of the exception.
        message: one sentence.
        hint: what to do about it, or an empty string.
        trace: the traceback of an unexpected failure, or an empty string.
    """

    rank: int
    time_ns: int
    exit_code: int
    kind: str
    message: str
    hint: str
    trace: str


def find_outer_launcher(environment: Mapping[str, str]) -> str | None:
    """Return the program that started this process as one of a job, or None.

    `srun` counts only inside a step of several tasks: in the batch script itself, where SLURM_NTASKS is set as
    well, nothing has been started yet.

    >>> find_outer_launcher({"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"})
    'torchrun'
    >>> find_outer_launcher({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"})
    'srun'
    >>> find_outer_launcher({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) is None
    True
    >>> find_outer_launcher({"RANK": "0", "WORLD_SIZE": "1"}) is None  # variables of a pod, not of a launcher
    True
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        if "LOCAL_RANK" in environment:
            return "torchrun"
        if environment["WORLD_SIZE"] != "1":
            raise SettingsError(
                f"RANK and WORLD_SIZE ({environment['WORLD_SIZE']}) announce a job, but LOCAL_RANK is not set.",
                "Start the processes with torchrun, accelerate or srun, set LOCAL_RANK and LOCAL_WORLD_SIZE, or "
                "unset RANK and WORLD_SIZE.",
            )
    if "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
        return "srun" if tasks.isdigit() and int(tasks) > 1 else None
    # `accelerate launch` of one process sets no rank, but always this.
    return "accelerate" if "ACCELERATE_DYNAMO_BACKEND" in environment else None


def slurm_to_torch(environment: Mapping[str, str]) -> dict[str, str]:
    """Return torch's variables for a process that srun started.

    Rank 0 is on the first node of the step, so that node is the meeting point; the port follows from the job and
    step, so that two jobs on one node do not meet.

    >>> variables = slurm_to_torch({
    ...     "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NODEID": "1",
    ...     "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": "gpu[007-008]", "SLURM_JOB_ID": "123456",
    ...     "SLURM_STEP_ID": "0"})
    >>> variables["RANK"], variables["LOCAL_RANK"], variables["WORLD_SIZE"], variables["LOCAL_WORLD_SIZE"]
    ('5', '1', '8', '4')
    >>> variables["MASTER_ADDR"], variables["MASTER_PORT"]
    ('gpu007', '23456')

    Raises:
        SettingsError: Slurm's variables do not say where rank 0 is, or how many tasks this node has.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    layout = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", tasks))
    per_node = expand_tasks_per_node(layout)
    node = int(environment.get("SLURM_NODEID", "0"))
    if node >= len(per_node) or sum(per_node) != int(tasks):
        raise SettingsError(
            f"Slurm announces {tasks} tasks, but {layout!r} tasks per node.",
            "Start the job with `srun`, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.",
        )
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    if len(per_node) == 1:
        address = "127.0.0.1"
    else:
        address = first_host(nodes) or environment.get("SLURM_LAUNCH_NODE_IPADDR", "")
    if not address:
        raise SettingsError(
            "Slurm started several nodes, but SLURM_STEP_NODELIST does not name them.",
            "Set MASTER_ADDR to the name of the first node.",
        )
    job, step = int(environment.get("SLURM_JOB_ID", "0")), environment.get("SLURM_STEP_ID", "0")
    port = 20000 + (job + 101 * (int(step) if step.isdigit() else 0)) % 20000
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(per_node[node]),
        "MASTER_ADDR": environment.get("MASTER_ADDR", address),
        "MASTER_PORT": environment.get("MASTER_PORT", str(port)),
    }


def check_tasks(environment: Mapping[str, str], nodes: int) -> None:
    """Check that srun started one launcher on each node.

    >>> check_tasks({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, 2)

    Raises:
        SettingsError: several tasks on a node, or tasks on more or fewer nodes.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    layout = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", tasks))
    if expand_tasks_per_node(layout) != [1] * nodes:
        raise SettingsError(
            f"nodes is {nodes}, which takes one task on each of them, but srun has started {layout} tasks per node.",
            f"Use `srun --nodes {nodes} --ntasks-per-node 1`, or leave --nodes, --node-rank and --rendezvous out: "
            "each task is then one process of the job.",
        )


def expand_tasks_per_node(layout: str) -> list[int]:
    """Return the tasks of every node from Slurm's short form; an empty list where it is none.

    >>> expand_tasks_per_node("4(x3),2")
    [4, 4, 4, 2]
    """
    counts: list[int] = []
    for part in layout.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            return []
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def first_host(nodes: str) -> str:
    """Return the first node of Slurm's short form.

    >>> first_host("gpu[003-008,011]-ib,login1"), first_host("node7,node9"), first_host("")
    ('gpu003-ib', 'node7', '')
    """
    match = re.match(r"([^\[,]*)(?:\[([^\]]*)\])?([^\[,]*)", nodes)
    assert match is not None
    first_number = re.split("[-,]", match[2])[0] if match[2] else ""
    return match[1] + first_number + match[3]


def join_launcher(environment: Mapping[str, str]) -> None:
    """Tie this rank's life to the launcher that started it, and tell it the process id.

    A signal that comes before the training loop listens ends the rank like Ctrl-C, so that it still reports.
    """
    die_with_parent()
    folder = Path(environment[OUTCOME])
    # Killed before the line above: the launcher, or the agent between the two, and with it this launch.
    if not _is_running(int(environment[LAUNCHER])) or not folder.is_dir():
        os._exit(ExitCode.INTERRUPTED)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(number, _interrupt)
    write_atomically(folder / f"{find_rank(environment)}.pid", str(os.getpid()), flush=False)


def find_rank(environment: Mapping[str, str]) -> int:
    """Return this process's number in its job; a job of one process has no number."""
    return int(environment.get("RANK", "0"))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, however that dies (Linux only)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)


def run_as_rank(story: Callable[[], T]) -> T:
    """Run a command's story; under our own launcher, hand a failure over to it instead of raising.

    The launcher shows the first rank's failure and stops the others. The failed rank waits for that: if it left,
    the others would fail in their collectives, and their errors would hide the cause.
    """
    folder = os.environ.get(OUTCOME)
    if folder is None:
        # Ended like Ctrl-C until the training loop listens; the default would be a death without a word.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGUSR1) in (
            signal.SIG_DFL,
            None,
        ):
            signal.signal(signal.SIGUSR1, _interrupt)
        return story()
    try:
        result = story()
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:  # everything is done: one that comes now is too late to stop anything
                signal.signal(number, signal.SIG_IGN)
        (Path(folder) / f"{find_rank(os.environ)}{DONE_SUFFIX}").touch()
        return result
    except BaseException as error:
        sys.stderr.flush()
        outcome = tell_launcher(error)
        wait_to_be_stopped()
        os._exit(ExitCode.FAILURE if outcome is None else outcome.exit_code)


def tell_launcher(error: BaseException) -> Outcome | None:
    """Hand an error over to our own launcher, which says it; None where there is no such launcher."""
    folder = os.environ.get(OUTCOME)
    if folder is None:
        return None
    outcome = describe_failure(find_rank(os.environ), error)
    write_atomically(Path(folder) / f"{outcome.rank}.json", json.dumps(asdict(outcome)), flush=False)
    return outcome


def wait_to_be_stopped() -> None:
    """Wait for the launcher's kill, which comes within seconds; an hour is for a launcher that was stopped."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(3600)


def describe_failure(rank: int, error: BaseException) -> Outcome:
    """Return what the launcher must know of an exception."""
    kind, hint, trace = type(error).__name__, "", ""
    if isinstance(error, UserError):
        exit_code, message, hint = error.exit_code, error.message, error.hint
    elif isinstance(error, KeyboardInterrupt):
        exit_code, message = ExitCode.INTERRUPTED, "Interrupted."
    else:
        exit_code, message = ExitCode.FAILURE, " ".join(str(error).split())
        trace = "".join(traceback.format_exception(error))
    return Outcome(rank, time.time_ns(), int(exit_code), kind, message, hint, trace)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
