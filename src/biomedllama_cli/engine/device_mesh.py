"""The device mesh of a job, as the ranks that are there: built, asserted, and read again."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.parallelism_config import ParallelismConfig
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from biomedllama_cli.engine.sharding import MeshShape

REPLICATE, SHARD, CONTEXT = "dp_replicate", "dp_shard", "cp"
FSDP_AXIS = "dp_shard_cp"
"""Both axes that a model is sharded over, where ranks share sequences: those hold different shards too."""


class MeshConfig(ParallelismConfig):  # type: ignore[misc]
    """A mesh of FSDP2 as Accelerate takes it.

    It keeps its shard axis at size 1 (copies only), where Accelerate would refuse FSDP2. Of context parallelism
    Accelerate is told nothing but the shard axis that it lengthens: it would put its own attention into the model.
    """

    def __init__(self, shape: MeshShape) -> None:
        # All sizes are given, so that no PARALLELISM_CONFIG_* variable of the environment counts.
        super().__init__(
            dp_replicate_size=shape.dp_replicate_size,
            dp_shard_size=shape.fsdp_size,
            tp_size=1,
            cp_size=1,
            sp_size=1,
            cp_backend="torch",
            sp_backend="deepspeed",
        )
        self.shape = shape

    @property
    def dp_shard_enabled(self) -> bool:
        """Return that there is a shard axis."""
        return True

    @property
    def fsdp_dim_names(self) -> list[str]:
        """Return the axes of the mesh that FSDP2 is given."""
        copies = [REPLICATE] if self.shape.dp_replicate_size > 1 else []
        return [*copies, FSDP_AXIS if self.shape.cp_size > 1 else SHARD]

    def build_device_mesh(self, device_type: str) -> DeviceMesh:
        """Return the mesh of FSDP2, where both axes that it shards over are one."""
        self.mesh = build_mesh(device_type, self.shape, is_sharded=True)
        if self.shape.cp_size == 1:
            return self.mesh
        sizes = {REPLICATE: self.shape.dp_replicate_size, FSDP_AXIS: self.shape.fsdp_size}
        names = tuple(self.fsdp_dim_names)
        return init_device_mesh(device_type, tuple(map(sizes.__getitem__, names)), mesh_dim_names=names)


def build_mesh(device_type: str, shape: MeshShape, *, is_sharded: bool) -> DeviceMesh:
    """Return the mesh of all ranks; every rank must call it."""
    axes = name_axes(shape, is_sharded=is_sharded)
    return init_device_mesh(device_type, tuple(axes.values()), mesh_dim_names=tuple(axes))


def name_axes(shape: MeshShape, *, is_sharded: bool) -> dict[str, int]:
    """Return the axes of a mesh with their sizes; those of size 1 are left out.

    >>> name_axes(MeshShape(2, 4), is_sharded=True), name_axes(MeshShape(1, 2, cp_size=2), is_sharded=True)
    ({'dp_replicate': 2, 'dp_shard': 4}, {'dp_shard': 2, 'cp': 2})
    >>> name_axes(MeshShape(4, 1), is_sharded=True), name_axes(MeshShape(4, 1), is_sharded=False)
    ({'dp_replicate': 4, 'dp_shard': 1}, {'dp_replicate': 4})

    Args:
        shape: sizes of all axes.
        is_sharded: whether parameters are sharded; the shard axis is there even at size 1 then.
    """
    axes = {}
    if shape.dp_replicate_size > 1 or not is_sharded:
        axes[REPLICATE] = shape.dp_replicate_size
    if is_sharded:
        axes[SHARD] = shape.dp_shard_size
    if shape.cp_size > 1:
        axes[CONTEXT] = shape.cp_size
    return axes


def check_mesh(accelerator: Accelerator, shape: MeshShape, *, is_sharded: bool) -> None:
    """Assert that the device mesh is the one that was chosen, never silently another."""
    if accelerator.num_processes == 1:
        assert shape.world_size == 1, shape
        return
    wanted, found = name_axes(shape, is_sharded=is_sharded), _read_axes(accelerator)
    assert found == wanted, f"the device mesh is {found}, not {wanted}"
    ranks = _find_mesh(accelerator).mesh.flatten().tolist()
    assert ranks == list(range(accelerator.num_processes)), f"the ranks of the device mesh are {ranks}"


def read_mesh(accelerator: Accelerator) -> MeshShape:
    """Return the sizes of the mesh that a job has; one of everything in one process."""
    axes = _read_axes(accelerator)
    return MeshShape(axes.get(REPLICATE, 1), axes.get(SHARD, 1), axes.get(CONTEXT, 1))


def find_context_group(accelerator: Accelerator) -> Any:
    """Return the process group of the ranks that share this rank's sequences, or None where nobody shares."""
    if CONTEXT not in _read_axes(accelerator):
        return None
    return _find_mesh(accelerator)[CONTEXT].get_group()


def _read_axes(accelerator: Accelerator) -> dict[str, int]:
    mesh = _find_mesh(accelerator)
    return {} if mesh is None else dict(zip(mesh.mesh_dim_names, mesh.shape, strict=True))


def _find_mesh(accelerator: Accelerator) -> Any:
    """Return the mesh with all axes; None in one process."""
    if accelerator.num_processes == 1:
        return None
    config = accelerator.parallelism_config
    return config.mesh if isinstance(config, MeshConfig) else accelerator.torch_device_mesh
