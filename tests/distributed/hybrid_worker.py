"""The jobs of the sharding tests: `hybrid_worker.py OUTPUT_FOLDER CORPUS_FOLDER`.

A reference is trained in plain PyTorch on all rows. Then jobs of 4 and 8 processes, forked from this one (it has
imported everything once), train on their parts with the engine's accelerator and step, once per variant; rank 0 writes
the trajectories and the collectives it saw. Last, the whole command trains in one process and in four.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from collective_log import CollectiveLog
from forked_job import run_job
from hybrid_reference import (
    HALF,
    SHORT,
    STEPS,
    build_micro_batches,
    build_model,
    train_reference,
)
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.context_parallel import build_row_split, share_rows
from biomedllama_cli.engine.device_mesh import find_context_group, read_mesh
from biomedllama_cli.engine.fsdp_groups import group_parameters
from biomedllama_cli.engine.optimizer import build_optimizer, set_learning_rate
from biomedllama_cli.engine.sharding import data_rank, data_ranks
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.models import fused_loss
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.models.split_attention import SPLIT_ATTENTION, register_split_attention
from biomedllama_cli.recipes.pretrain import pretrain
from biomedllama_cli.settings.pretrain import (
    NumericsSettings,
    OptimizerSettings,
    ParallelSettings,
    PretrainParallelSettings,
    PretrainSettings,
)

OPTIMIZER = OptimizerSettings(peak_learning_rate=1e-3, max_grad_norm=0.5, weight_decay=0.1)
STRATEGIES = ("full", "hybrid", "hybrid-zero2", "replicate")


@dataclass(frozen=True)
class Variant:
    """One training: processes in all and on each of the nodes they are told of, and what is asked for."""

    world_size: int = 4
    ranks_per_node: int = 2
    settings: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    steps: int = STEPS


# Without sizes the mesh follows from the nodes.
VARIANTS = {
    **{name: Variant(settings={"sharding": name}) for name in STRATEGIES},
    "copies": Variant(settings={"dp_shard_size": 1}, steps=SHORT),
    "hybrid-bf16": Variant(precision="bf16", steps=SHORT),
    "eight": Variant(world_size=8, ranks_per_node=4, steps=HALF),
}


def train_variant(variant: Variant, log: CollectiveLog) -> tuple[Accelerator, Any, dict[str, Any]]:
    """Train in this rank, and return what was seen."""
    parallel = ParallelSettings(device="cpu", **variant.settings)
    accelerator = build_accelerator(parallel, NumericsSettings(precision=variant.precision))
    model = enable_token_losses(build_model())
    groups = [asdict(group) for group in group_parameters(model)]
    optimizer = build_optimizer(model, OPTIMIZER)
    model, optimizer = prepare(accelerator, model, optimizer)
    seen: dict[str, Any] = {"losses": [], "norms": [], "held": [], "planned_groups": groups}
    log.between_micro_batches = lambda: seen["held"].append(count_held_gradients(model))
    log.watch(accelerator)
    frame = StepFrame.plain(accelerator, OPTIMIZER.max_grad_norm, 1)
    for step in range(variant.steps):
        log.start_step(step)
        set_learning_rate(optimizer, OPTIMIZER.peak_learning_rate)
        micro_batches = build_micro_batches(step, accelerator.process_index, accelerator.num_processes)
        with log if step < SHORT else nullcontext():  # it makes every operation slow
            measured = train_step(accelerator, model, optimizer, micro_batches, frame)
        seen["losses"].append(measured.loss)
        seen["norms"].append(measured.grad_norm)
    return accelerator, model, seen


def list_fsdp_groups(model: torch.nn.Module) -> list[Any]:
    found = {
        id(group): group
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for group in module._get_fsdp_state()._fsdp_param_groups
    }
    return list(found.values())


def count_held_gradients(model: torch.nn.Module) -> tuple[int, int]:
    """Return the numbers of gradients that this rank holds whole, and those that it holds of its shard."""
    whole = shards = 0
    for parameter in model.parameters():
        if isinstance(parameter.grad, DTensor):
            shards += parameter.grad.to_local().numel()
        elif parameter.grad is not None:
            whole += parameter.grad.numel()
    for group in list_fsdp_groups(model):
        shards += 0 if group._partial_reduce_output is None else group._partial_reduce_output.numel()
        for each in group.fsdp_params:
            kept = [each.unsharded_accumulated_grad]
            if hasattr(each, "_unsharded_param"):
                kept.append(each._unsharded_param.grad)
            whole += sum(gradient.numel() for gradient in kept if gradient is not None)
    return whole, shards


def describe_run(accelerator: Accelerator, model: torch.nn.Module, log: CollectiveLog) -> dict[str, Any]:
    mesh = accelerator.torch_device_mesh
    return {
        "mesh": dict(zip(mesh.mesh_dim_names, mesh.shape, strict=True)),
        "groups": {name: mesh[name].get_group().group_name for name in mesh.mesh_dim_names},
        "fsdp_groups": [
            sorted(tuple(each._orig_size) for each in group.fsdp_params) for group in list_fsdp_groups(model)
        ],
        "is_tied": model.lm_head.weight is model.model.embed_tokens.weight,
        "kinds": sorted({type(parameter.data).__name__ for parameter in model.parameters()}),
        "dtypes": sorted({str(parameter.dtype) for parameter in model.parameters()}),
        "collectives": [[*key, times] for key, times in log.seen.items()],
    }


def run_variant(name: str, output: Path) -> None:
    """Train one variant in this rank of its job; rank 0 writes."""
    AcceleratorState._reset_state(reset_partial_state=True)
    log = CollectiveLog()
    accelerator, model, seen = train_variant(VARIANTS[name], log)
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if accelerator.is_main_process:
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        copies = {key: tensor.clone() for key, tensor in weights.items()}
        save_file(copies, output / f"{name}.safetensors")
        facts = seen | describe_run(accelerator, model, log)
        (output / f"{name}.json").write_text(json.dumps(facts))
    accelerator.wait_for_everyone()


def run_shared_sequences(output: Path) -> None:
    """Train a step on a mesh of 2 copies x 2 shards x 2 ranks that share sequences; every rank writes what it saw."""
    AcceleratorState._reset_state(reset_partial_state=True)
    parallel = PretrainParallelSettings(device="cpu", cp_size=2)
    accelerator = build_accelerator(parallel, NumericsSettings(precision="fp32"))
    rank, shape = accelerator.process_index, read_mesh(accelerator)
    mine, ranks = data_rank(shape, rank), data_ranks(shape)
    register_split_attention()
    model = enable_token_losses(build_model(SPLIT_ATTENTION))
    groups = [asdict(group) for group in group_parameters(model)]
    split = build_row_split(accelerator)
    assert split is not None
    share_rows(model, split)
    optimizer = build_optimizer(model, OPTIMIZER)
    model, optimizer = prepare(accelerator, model, optimizer)
    log = CollectiveLog()
    log.watch(accelerator)
    log.start_step(0)
    frame = StepFrame(OPTIMIZER.max_grad_norm, 1, mine, ranks)
    with log:
        measured = train_step(accelerator, model, optimizer, build_micro_batches(0, mine, ranks), frame)
    mesh = next(model.parameters()).device_mesh
    facts = {
        "losses": [measured.loss],
        "planned_groups": groups,
        "collectives": [[*key, times] for key, times in log.seen.items()],
        "shape": asdict(shape),
        "sharers": distributed.get_process_group_ranks(find_context_group(accelerator)),
        "data_rank": mine,
        "fsdp": dict(zip(mesh.mesh_dim_names, mesh.shape, strict=True)),
        "shard_ranks": distributed.get_process_group_ranks(mesh.get_group(1)),
    }
    (output / f"context-{rank}.json").write_text(json.dumps(facts))
    accelerator.wait_for_everyone()


def run_command(corpus: Path, folder: Path, strategy: str) -> None:
    """Train with the whole recipe: 2.25 epochs, and a last batch that is not full."""
    AcceleratorState._reset_state(reset_partial_state=True)
    settings = PretrainSettings.model_validate(
        {
            "corpus": corpus,
            "output_dir": folder,
            "model": "scratch:tiny",
            "batch": {"sequence_length": 256, "micro_batch_size": 2, "global_batch_size": 16},
            "duration": {"epochs": 2.25},
            "optimizer": {"peak_learning_rate": 1e-3},
            "numerics": {"precision": "fp32", "attention": "sdpa"},
            "parallel": {"device": "cpu", "sharding": strategy},
            "monitor": {"general": ("none",)},
        }
    )
    pretrain(settings)


def main(output: Path, corpus: Path) -> None:
    fused_loss.TOKENS_PER_CHUNK = 5  # several chunks of logits in every row
    (output / "reference.json").write_text(json.dumps(train_reference(output)))
    shapes = sorted({(variant.world_size, variant.ranks_per_node) for variant in VARIANTS.values()})
    for shape in shapes:

        def train_all(shape: tuple[int, int] = shape) -> None:
            for name, variant in VARIANTS.items():
                if (variant.world_size, variant.ranks_per_node) == shape:
                    run_variant(name, output)
            if shape == (8, 4):
                run_shared_sequences(output)

        run_job(*shape, train_all)
    run_job(1, 1, lambda: run_command(corpus, output / "run-one", "hybrid"))
    run_job(4, 2, lambda: [run_command(corpus, output / f"run-{name}", name) for name in STRATEGIES])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
