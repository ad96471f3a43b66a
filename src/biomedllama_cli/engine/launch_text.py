"""The commands of `accelerate launch` that a command of ours stands for, to be pasted into a shell."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from biomedllama_cli.engine.launch import MODULE, build_options, choose_variables, count_gpus
from biomedllama_cli.engine.sharding import World, choose_mesh
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.pretrain import ParallelSettings

logger = logging.getLogger(__name__)


class LaunchCommands:
    """One command for each node.

    Args:
        commands: in the order of the nodes.
    """

    def __init__(self, commands: Sequence[str]) -> None:
        self.commands = tuple(commands)

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the commands."""
        return {"schema_version": "biomedllama.launch/1", "commands": list(self.commands)}

    def lines(self) -> list[str]:
        """Return one line per node, the first one's first."""
        return list(self.commands)


def describe_launch(parallel: ParallelSettings, arguments: Sequence[str]) -> LaunchCommands:
    """Return the command of every node, which need not be this machine: nothing is held against its GPUs.

    Raises:
        SettingsError: it is not said how many GPUs a node has and this machine has none, the mesh does not fit, or the
            meeting point of several nodes is missing or malformed.
    """
    if parallel.max_restarts:
        logger.warning(
            "max_restarts is %d, but `accelerate launch` starts nothing again for it", parallel.max_restarts
        )
    processes, on_cpu = _choose_processes(parallel)
    choose_mesh(parallel, World(processes * parallel.nodes, processes))
    chosen = choose_variables(processes, on_cpu, nodes=parallel.nodes)
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in chosen.items())
    commands = []
    for node in range(parallel.nodes):
        place = parallel.model_copy(update={"node_rank": node})
        if processes * parallel.nodes == 1:
            options = [*("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no")]
            options += ["--dynamo_backend", "no", *(["--cpu"] if on_cpu else [])]
        else:
            options = [*build_options(place, processes), "--gpu_ids", "all"]
        ours = [*_leave_out_node_rank(arguments), "--no-print-launch"]
        if parallel.nodes > 1:
            ours += ["--node-rank", str(node)]
        words = [sys.executable, "-m", "accelerate.commands.launch", *options, "--module", MODULE, *ours]
        commands.append(f"{variables} {shlex.join(words)}")
    return LaunchCommands(commands)


def _choose_processes(parallel: ParallelSettings) -> tuple[int, bool]:
    """Return the processes of each node, and whether they compute on CPUs."""
    asked, gpus = parallel.num_processes, 0 if parallel.device == "cpu" else count_gpus()
    if parallel.device == "cpu" or (parallel.device == "auto" and parallel.nodes == 1 and gpus == 0):
        if parallel.device == "auto":
            logger.warning(
                "there is no GPU here, so the command is for CPUs; for the GPUs of another machine give --device cuda"
            )
        return asked or 1, True
    if asked is None and gpus == 0:
        raise SettingsError(
            "There is no GPU here to count, so num_processes must be given: the number of GPUs of each node.",
            "For 8 GPUs on each node: --num-processes 8. For CPUs: --device cpu.",
        )
    return asked or gpus, False


def _leave_out_node_rank(arguments: Sequence[str]) -> list[str]:
    """Return a command line without the number of a node.

    >>> _leave_out_node_rank(["pretrain", "--node-rank", "0", "--nodes", "2", "--node-rank=1"])
    ['pretrain', '--nodes', '2']
    """
    pairs = zip(("", *arguments), arguments, strict=False)
    kept = [word for before, word in pairs if before != "--node-rank" and word != "--node-rank"]
    return [word for word in kept if not word.startswith("--node-rank=")]
