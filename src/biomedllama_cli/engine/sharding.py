"""The device mesh of hybrid sharding: copies across nodes, shards inside a node.

Pure arithmetic, without torch: the launcher refuses a wrong mesh before a single worker starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.pretrain import ParallelSettings


@dataclass(frozen=True)
class World:
    """Processes of a job as its launcher announces them.

    Attributes:
        world_size: processes on all nodes.
        local_world_size: processes on this node.
    """

    world_size: int = 1
    local_world_size: int = 1


@dataclass(frozen=True)
class MeshShape:
    """Sizes of the two data-parallel axes.

    Attributes:
        dp_replicate_size: copies of the sharded model (across nodes).
        dp_shard_size: ranks one copy is sharded over (inside a node).
    """

    dp_replicate_size: int
    dp_shard_size: int

    @property
    def world_size(self) -> int:
        """Return the number of ranks in the mesh."""
        return self.dp_replicate_size * self.dp_shard_size


def read_world(environment: Mapping[str, str] | None = None) -> World:
    """Read the job's size from torchrun's environment variables; one process when there are none.

    >>> read_world({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"})
    World(world_size=8, local_world_size=4)
    >>> read_world({})
    World(world_size=1, local_world_size=1)

    Raises:
        SettingsError: a variable is not a whole number of at least 1.
    """
    environment = os.environ if environment is None else environment
    sizes: dict[str, int] = {}
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        text = environment.get(name, "1" if name == "WORLD_SIZE" else str(sizes["WORLD_SIZE"]))
        if not text.isdigit() or int(text) < 1:
            raise SettingsError(
                f"The environment variable {name} is {text!r}, but must be a whole number of at least 1.",
                "It is set by the program that starts the processes (torchrun, accelerate, Slurm).",
            )
        sizes[name] = int(text)
    return World(sizes["WORLD_SIZE"], sizes["LOCAL_WORLD_SIZE"])


def choose_mesh(parallel: ParallelSettings, world: World) -> MeshShape:
    """Choose the mesh: what is asked, else one copy per node and one shard per process of a node.

    >>> choose_mesh(ParallelSettings(), World(world_size=32, local_world_size=4))
    MeshShape(dp_replicate_size=8, dp_shard_size=4)
    >>> choose_mesh(ParallelSettings(dp_replicate_size=2), World(world_size=4, local_world_size=4))
    MeshShape(dp_replicate_size=2, dp_shard_size=2)

    Raises:
        SettingsError: the product of the two sizes is not the number of processes.
    """
    replicate, shard = parallel.dp_replicate_size, parallel.dp_shard_size
    if replicate is None and shard is None:
        shard = world.local_world_size
    if replicate is None:
        assert shard is not None
        replicate = max(1, world.world_size // shard)
    if shard is None:
        shard = max(1, world.world_size // replicate)
    if replicate * shard != world.world_size:
        raise SettingsError(
            f"dp_replicate_size {replicate} x dp_shard_size {shard} = {replicate * shard}, but their product "
            f"must be the number of processes, which is {world.world_size} "
            f"({world.local_world_size} on this node).",
            "Give one of the two sizes and the other follows, or neither: one copy per node, "
            "sharded over the node's processes.",
        )
    return MeshShape(replicate, shard)
