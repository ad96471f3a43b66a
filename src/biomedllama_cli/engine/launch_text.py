"""The commands of `accelerate launch` that a command of ours stands for, to be pasted into a shell."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from biomedllama_cli.engine.launch import MODULE, build_options, choose_variables, count_gpus, count_processes
from biomedllama_cli.engine.sharding import World, choose_mesh
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
    """Return the command of every node; the processes of this machine stand for those of each.

    Raises:
        SettingsError: the mesh does not fit, or the meeting point of several nodes is missing or malformed.
    """
    if parallel.max_restarts:
        logger.warning(
            "max_restarts is %d, but `accelerate launch` starts nothing again for it", parallel.max_restarts
        )
    processes = count_processes(parallel)
    on_cpu = parallel.device == "cpu" or count_gpus() == 0
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
        ours = [*arguments, "--no-print-launch"]
        if parallel.nodes > 1:
            ours += ["--node-rank", str(node)]
        words = [sys.executable, "-m", "accelerate.commands.launch", *options, "--module", MODULE, *ours]
        commands.append(f"{variables} {shlex.join(words)}")
    return LaunchCommands(commands)
