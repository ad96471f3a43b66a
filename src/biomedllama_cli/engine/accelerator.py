"""The one place that sees Accelerate: one process, FSDP2 on a device mesh, or a copy of the model on every rank.

Accelerate gives the processes, the mesh and the sharding. Its gradient accumulation, its wrapped forward and
its scheduler are not used: the loop writes them out, so that each factor of the loss stands in one line.
"""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, DistributedType, PartialState
from accelerate.utils import (
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from biomedllama_cli.engine.device_mesh import MeshConfig, build_mesh, check_mesh
from biomedllama_cli.engine.fsdp_groups import find_decoder_layer_names
from biomedllama_cli.engine.rank import EXPECTED_WORLD_SIZE
from biomedllama_cli.engine.replica import replicate, sync_replicas
from biomedllama_cli.engine.sharding import World, choose_mesh, read_world
from biomedllama_cli.errors import SettingsError, UnavailableError, WorkerError
from biomedllama_cli.models.precision import DTYPES
from biomedllama_cli.settings.pretrain import NumericsSettings, ParallelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# A rank that loads a large model or writes a checkpoint alone keeps the others waiting this long at most.
COLLECTIVE_TIMEOUT = timedelta(hours=1)


def build_accelerator(parallel: ParallelSettings, numerics: NumericsSettings) -> Accelerator:
    """Build the Accelerator of this process, joining the job its launcher announced in the environment.

    With several processes it carries the device mesh and, unless every rank has a copy, the FSDP2 settings; `prepare`
    applies them.
    Compute under `accelerator.autocast()`; weights and optimizer states are fp32 in every precision.

    Raises:
        SettingsError: the mesh does not fit the number of processes, or fp16 is asked for on a CPU.
        UnavailableError: CUDA is asked for and is not there.
        WorkerError: the job has another size than the launcher was asked for.
    """
    world = read_world()
    check_world(parallel, world)
    mesh = choose_mesh(parallel, world)
    use_cpu = choose_device_type(parallel) == "cpu"
    if use_cpu and numerics.precision == "fp16":
        raise SettingsError(
            "precision is fp16, which needs CUDA, and this run is on the CPU.", "Use bf16 or fp32."
        )
    torch.backends.cuda.matmul.allow_tf32 = numerics.tf32
    torch.backends.cudnn.allow_tf32 = numerics.tf32
    if not use_cpu:
        warn_of_idle_devices(parallel, world)
    several = world.world_size > 1
    is_sharded = several and parallel.sharding != "replicate"
    # A second run in the same processes: Accelerate would keep the first one's state, and forget that it is sharded.
    AcceleratorState._reset_state()
    if is_sharded and use_cpu:
        join_gloo_as_accelerator_job()
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision="no" if numerics.precision == "fp32" else numerics.precision,
        # A plugin, because an environment variable would win over a plain number.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        fsdp_plugin=_build_fsdp_plugin(parallel, numerics) if is_sharded else None,
        parallelism_config=MeshConfig(mesh) if is_sharded else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT)] if several else None,
    )
    if accelerator.num_processes != world.world_size:
        raise WorkerError(
            f"The job has {accelerator.num_processes} processes, but WORLD_SIZE announces {world.world_size}."
        )
    if is_sharding(accelerator) and not is_sharded:
        raise SettingsError(
            "sharding is replicate, but the Accelerate configuration that started this job turns FSDP on.",
            "Start it without one (biomedllama starts its own processes), or choose another --sharding.",
        )
    if several and not is_sharded:
        accelerator.state.device_mesh = build_mesh(accelerator.device.type, mesh, is_sharded=False)
    check_mesh(accelerator, mesh, is_sharded=is_sharded)
    return accelerator


def choose_device_type(parallel: ParallelSettings) -> str:
    """Return "cuda" or "cpu" for the settings on this machine.

    Raises:
        UnavailableError: CUDA is asked for and is not there.
    """
    if parallel.device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(
            "device is cuda, but PyTorch sees no CUDA device here.",
            "Use --device cpu, or install a CUDA build of PyTorch and check `nvidia-smi`.",
        )
    if parallel.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return parallel.device


def warn_of_idle_devices(parallel: ParallelSettings, world: World) -> None:
    """Warn where a launcher started fewer processes on this node than it has CUDA devices."""
    devices, is_first = torch.cuda.device_count(), os.environ.get("LOCAL_RANK", "0") == "0"
    if is_first and parallel.num_processes is None and devices > world.local_world_size:
        logger.warning(
            "this node has %d CUDA devices, but only %d of its processes take part: the other devices stay idle",
            devices,
            world.local_world_size,
        )


def check_world(parallel: ParallelSettings, world: World) -> None:
    """Check that the job has the size that was asked for.

    Raises:
        WorkerError: our own launcher was asked for another world size.
        SettingsError: `num_processes` is given and is not what another launcher started on this node.
    """
    expected = os.environ.get(EXPECTED_WORLD_SIZE)
    if expected is not None and int(expected) != world.world_size:
        raise WorkerError(
            f"{expected} processes were asked for, but the job that started has {world.world_size}.",
            "Check which `accelerate` is installed; a job of another size is never trained silently.",
        )
    if parallel.num_processes is not None and parallel.num_processes != world.local_world_size:
        raise SettingsError(
            f"num_processes is {parallel.num_processes}, but {world.local_world_size} were started on this "
            "node.",
            "Under torchrun, accelerate or Slurm leave num_processes out: the launcher decides.",
        )


def join_gloo_as_accelerator_job() -> None:
    """Join a gloo job on CPUs so that Accelerate allows FSDP2 and a device mesh on it.

    Accelerate turns FSDP2 on only for its multi-device types. On gloo it reports MULTI_CPU and refuses a
    ParallelismConfig, though FSDP2 itself works there. The type is looked at only to take that branch (device
    and backend are settled before), so the shared state is given a multi-device type in between. Used only
    where there is no accelerator: it makes hybrid sharding run, and be tested, on any machine.
    """
    state = PartialState(cpu=True, timeout=COLLECTIVE_TIMEOUT)
    assert state.device.type == "cpu"
    assert torch.distributed.get_backend() == "gloo"
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _build_fsdp_plugin(
    parallel: ParallelSettings, numerics: NumericsSettings
) -> FullyShardedDataParallelPlugin:
    # Everything is given, so that a stray FSDP_* variable in the environment changes nothing.
    compute_dtype = DTYPES[numerics.precision]
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=parallel.sharding != "hybrid-zero2",
        auto_wrap_policy="transformer_based_wrap",
        mixed_precision_policy=MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32),
        state_dict_type="SHARDED_STATE_DICT",
        cpu_offload=False,
        cpu_ram_efficient_loading=False,
        activation_checkpointing=False,
        activation_checkpointing_offload=False,
    )


def prepare(
    accelerator: Accelerator, model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> tuple[PreTrainedModel, Any]:
    """Move the model to its device and, with several processes, shard or copy it; wrap the optimizer.

    Sharded, every decoder layer is one FSDP group, and so are the embeddings and the final norm with the output head
    (one group together when they are tied). The optimizer must hold this model's parameters: it is given
    the shards in their place. Call `model(...)` as a whole afterwards: its parts skip FSDP's hooks.

    Returns:
        The model and the optimizer in Accelerate's wrapper.

    Raises:
        ModelError: the model does not say which of its modules is a decoder layer.
    """
    if not is_sharding(accelerator):
        model.to(accelerator.device)
        if accelerator.num_processes > 1:
            replicate(model)
        return model, accelerator.prepare_optimizer(optimizer)
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = find_decoder_layer_names(model)
    model, optimizer = accelerator.prepare(model, optimizer)
    mesh = accelerator.torch_device_mesh[tuple(accelerator.parallelism_config.fsdp_dim_names)]
    for name, parameter in model.named_parameters():
        found = getattr(parameter, "device_mesh", None)
        assert found is not None, f"{name} was not sharded"
        assert found == mesh, f"{name} lies on the mesh {found}, not {mesh}"
    return model, optimizer


def is_sharding(accelerator: Accelerator) -> bool:
    """Say whether parameters are split over ranks, and not whole on every one."""
    return bool(accelerator.num_processes > 1 and accelerator.distributed_type == DistributedType.FSDP)


def set_gradient_sync(model: torch.nn.Module, *, is_last_micro_batch: bool) -> None:
    """Say before each forward whether its micro-batch is the last of the step.

    Inside a node every micro-batch is reduce-scattered, so that gradients stay sharded; across nodes the sum
    of all is all-reduced once, on the last. Whole copies are all-reduced once, on the last, too. Nothing to do in one
    process.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(is_last_micro_batch)
        model.set_is_last_backward(is_last_micro_batch)
    else:
        sync_replicas(model, is_wanted=is_last_micro_batch)
