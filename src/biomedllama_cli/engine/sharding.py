"""The device mesh: copies across nodes, shards inside a node, and ranks that share a sequence.

Pure arithmetic, without torch: the launcher refuses a wrong mesh before a single worker starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.pretrain import ParallelSettings, PretrainParallelSettings


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
    """Sizes of the axes of the device mesh; neighbouring ranks are neighbours on the last axis.

    Attributes:
        dp_replicate_size: copies of the model, sharded or whole (across nodes).
        dp_shard_size: groups of ranks with sequences of their own that one copy is sharded over (inside a node).
        cp_size: ranks of such a group, which share each sequence; a copy is sharded over these as well.
    """

    dp_replicate_size: int
    dp_shard_size: int
    cp_size: int = 1

    @property
    def world_size(self) -> int:
        """Return the number of ranks in the mesh."""
        return self.dp_replicate_size * self.dp_shard_size * self.cp_size

    @property
    def fsdp_size(self) -> int:
        """Return the number of ranks that one copy of the model is sharded over."""
        return self.dp_shard_size * self.cp_size


def data_ranks(mesh: MeshShape) -> int:
    """Return how many groups of ranks have sequences of their own.

    >>> data_ranks(MeshShape(2, 2, cp_size=2))
    4
    """
    return mesh.dp_replicate_size * mesh.dp_shard_size


def data_rank(mesh: MeshShape, rank: int) -> int:
    """Return which group's sequences a rank has; ranks that share a sequence have the same.

    >>> [data_rank(MeshShape(2, 2), rank) for rank in range(4)]
    [0, 1, 2, 3]
    >>> [data_rank(MeshShape(1, 2, cp_size=2), rank) for rank in range(4)]
    [0, 0, 1, 1]
    """
    return rank // mesh.cp_size


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
    """Choose the mesh: the sizes that are asked for, and what the strategy says of the others.

    `hybrid` copies the model to every node and shards it over the node's processes, `full` shards it over all
    processes, `replicate` gives every process a copy.

    >>> choose_mesh(ParallelSettings(), World(world_size=32, local_world_size=4))
    MeshShape(dp_replicate_size=8, dp_shard_size=4, cp_size=1)
    >>> choose_mesh(ParallelSettings(dp_replicate_size=2), World(world_size=4, local_world_size=4))
    MeshShape(dp_replicate_size=2, dp_shard_size=2, cp_size=1)
    >>> choose_mesh(ParallelSettings(sharding="full"), World(world_size=32, local_world_size=4))
    MeshShape(dp_replicate_size=1, dp_shard_size=32, cp_size=1)
    >>> choose_mesh(PretrainParallelSettings(cp_size=2), World(world_size=32, local_world_size=4))
    MeshShape(dp_replicate_size=8, dp_shard_size=2, cp_size=2)

    Raises:
        SettingsError: the product of the sizes is not the number of processes, or a size contradicts the strategy.
    """
    context = parallel.cp_size if isinstance(parallel, PretrainParallelSettings) else 1
    _check_strategy(parallel)
    _check_context(context, world)
    replicate, shard = parallel.dp_replicate_size, parallel.dp_shard_size
    groups = world.world_size // context
    if replicate is None and shard is None:
        replicate, shard = _choose_sizes(parallel.sharding, groups, max(1, world.local_world_size // context))
    elif replicate is None:
        assert shard is not None
        replicate = 1 if parallel.sharding == "full" else max(1, groups // shard)
    elif shard is None:
        shard = 1 if parallel.sharding == "replicate" else max(1, groups // replicate)
    assert shard is not None
    mesh = MeshShape(replicate, shard, context)
    if mesh.world_size != world.world_size:
        sizes = f"dp_replicate_size {replicate} x dp_shard_size {shard}"
        raise SettingsError(
            f"{sizes}{f' x cp_size {context}' if context > 1 else ''} = {mesh.world_size}, but their product "
            f"must be the number of processes, which is {world.world_size} "
            f"({world.local_world_size} on this node).",
            "Give one of the two sizes and the other follows, or neither: one copy per node, "
            "sharded over the node's processes.",
        )
    return mesh


def _choose_sizes(strategy: str, groups: int, groups_per_node: int) -> tuple[int, int]:
    """Return copies and shards where neither is asked for."""
    if strategy == "replicate":
        return groups, 1
    shard = groups if strategy == "full" else groups_per_node
    return max(1, groups // shard), shard


def _check_strategy(parallel: ParallelSettings) -> None:
    """Check that a size that is asked for does not contradict the strategy."""
    replicate, shard = parallel.dp_replicate_size, parallel.dp_shard_size
    if parallel.sharding == "full" and replicate not in (None, 1):
        raise SettingsError(
            f"dp_replicate_size is {replicate}, but with sharding full there is one copy, split over all processes.",
            "Use --sharding hybrid for copies that are sharded, or leave --dp-replicate-size out.",
        )
    if parallel.sharding == "replicate" and shard not in (None, 1):
        raise SettingsError(
            f"dp_shard_size is {shard}, but with sharding replicate every process has the whole model.",
            "Use --sharding hybrid to shard each copy, or leave --dp-shard-size out.",
        )


def _check_context(context: int, world: World) -> None:
    """Check that groups that share a sequence fill the job, and that none lies across two nodes by half."""
    if world.world_size % context:
        raise SettingsError(
            f"cp_size is {context}, but must divide the number of processes, which is {world.world_size}.",
            "Choose a divisor of it, or another --num-processes.",
        )
    if world.local_world_size % context and context % world.local_world_size:
        raise SettingsError(
            f"cp_size is {context}, but must divide the number of processes of a node, which is "
            f"{world.local_world_size}, or be a multiple of it.",
            "Otherwise some of the groups that share a sequence would lie across two nodes.",
        )
