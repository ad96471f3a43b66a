"""One rank of the hybrid sharding tests: `hybrid_worker.py OUTPUT_FOLDER`.

Rank 0 first trains in plain PyTorch on all rows (the reference); then all ranks train on their parts with the
engine's accelerator and step, once per variant; rank 0 writes all trajectories and the collectives it saw.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from biomedllama_cli.engine import step as step_module
from biomedllama_cli.engine.accelerator import build_accelerator, prepare, set_gradient_sync
from biomedllama_cli.engine.optimizer import build_optimizer, set_learning_rate
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.models import loss as loss_module
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, ParallelSettings

STEPS, MICRO_BATCHES, WORLD, LENGTH, VOCABULARY = 20, 4, 4, 16, 64
ROWS_PER_STEP = MICRO_BATCHES * WORLD
OPTIMIZER = OptimizerSettings(peak_learning_rate=1e-3, max_grad_norm=0.5, weight_decay=0.1)
SHORT = 5
# Settings, precision, steps.
VARIANTS = {
    "2x2": ({"dp_replicate_size": 2}, "fp32", STEPS),
    "2x2-kept": ({"dp_replicate_size": 2, "sharding": "hybrid-zero2"}, "fp32", SHORT),
    "4x1": ({"dp_shard_size": 1}, "fp32", SHORT),
    "1x4": ({}, "fp32", SHORT),
    "2x2-bf16": ({"dp_replicate_size": 2}, "bf16", SHORT),
}

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class CollectiveLog(TorchDispatchMode):
    """Record each collective as (phase, operation, process group)."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        self.seen: list[tuple[str, str, str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor unwraps itself and comes back with its collectives
        if func.namespace == "c10d":
            groups = [distributed.ProcessGroup.unbox(arg) for arg in args if _is_group(arg)]
            self.seen.append((self.phase, func.__name__.split(".")[0], groups[0].group_name))
        elif func.namespace == "_c10d_functional" and "all_reduce" in func.__name__:
            self.seen.append((self.phase, func.__name__.split(".")[0], str(args[-1])))
        return func(*args, **(kwargs or {}))

    def start_step(self, step: int) -> None:
        self._step, self._micro_batch = step, -1
        self.phase = f"{step}:before"

    def watch(self, accelerator: Accelerator) -> None:
        """Learn the phase from the calls that the step makes."""
        sync, clip = set_gradient_sync, accelerator.clip_grad_norm_

        def note_micro_batch(*args, **kwargs):
            self._micro_batch += 1
            self.phase = f"{self._step}:{self._micro_batch}"
            return sync(*args, **kwargs)

        def note_clipping(*args, **kwargs):
            self.phase = f"{self._step}:clip"
            norm = clip(*args, **kwargs)
            self.phase = f"{self._step}:after"
            return norm

        step_module.set_gradient_sync, accelerator.clip_grad_norm_ = note_micro_batch, note_clipping


def _is_group(value: object) -> bool:
    return isinstance(value, torch.ScriptObject) and "ProcessGroup" in str(value._type())


def build_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    configuration = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(configuration)


def build_step(step: int) -> Rows:
    """Rows of very different numbers of targets: dividing per row or per rank would be seen."""
    generator = torch.Generator().manual_seed(1000 + step)
    ids = torch.randint(0, VOCABULARY, (ROWS_PER_STEP, LENGTH + 1), generator=generator)
    labels = ids[:, 1:].clone()
    for row in range(ROWS_PER_STEP):
        labels[row, 1 + (row * 7 + step) % LENGTH :] = -100
    labels[3] = -100  # a row that pads the last batch: no target at all
    return ids[:, :-1], labels, torch.arange(LENGTH).repeat(ROWS_PER_STEP, 1)


def train_reference(output: Path) -> dict[str, list[float]]:
    model = build_model()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    losses, norms = [], []
    for step in range(STEPS):
        input_ids, labels, _ = build_step(step)
        logits = model(input_ids=input_ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step + 1 in (SHORT, STEPS):
            save_weights(model.state_dict(), output / f"reference-{step + 1}.safetensors")
    return {"losses": losses, "norms": norms}


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights, tied ones under both names."""
    weights = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
    save_file({name: tensor.clone() for name, tensor in weights.items()}, path)


def train_sharded(parallel: ParallelSettings, precision: str, steps: int, log: CollectiveLog):
    accelerator = build_accelerator(parallel, NumericsSettings(precision=precision))
    model = enable_token_losses(build_model())
    optimizer = build_optimizer(model, OPTIMIZER)
    model, optimizer = prepare(accelerator, model, optimizer)
    log.watch(accelerator)
    losses, norms = [], []
    frame = StepFrame.plain(accelerator, OPTIMIZER.max_grad_norm, 1)
    for step in range(steps):
        log.start_step(step)
        set_learning_rate(optimizer, OPTIMIZER.peak_learning_rate)
        micro_batches = build_micro_batches(step, accelerator.process_index, accelerator.num_processes)
        measured = train_step(accelerator, model, optimizer, micro_batches, frame)
        losses.append(measured.loss)
        norms.append(measured.grad_norm)
    return accelerator, model, losses, norms


def build_micro_batches(step: int, rank: int, world_size: int) -> list[dict[str, torch.Tensor]]:
    """The rows of one rank, one row per micro-batch."""
    input_ids, labels, position_ids = build_step(step)
    mine = range(rank, ROWS_PER_STEP, world_size)
    return [
        {
            "input_ids": input_ids[n : n + 1],
            "labels": labels[n : n + 1],
            "position_ids": position_ids[n : n + 1],
        }
        for n in mine
    ]


def describe_run(accelerator: Accelerator, model, log: CollectiveLog) -> dict[str, object]:
    mesh = accelerator.torch_device_mesh
    fsdp_groups = {
        id(group): group
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for group in module._get_fsdp_state()._fsdp_param_groups
    }
    axes = next(iter(fsdp_groups.values())).mesh_info
    groups = {"dp_shard": axes.shard_process_group.group_name}
    if "dp_replicate" in mesh.mesh_dim_names:
        groups["dp_replicate"] = axes.replicate_process_group.group_name
    return {
        "mesh": dict(zip(mesh.mesh_dim_names, mesh.shape, strict=True)),
        "groups": groups,
        "fsdp_groups": len(fsdp_groups),
        "is_tied": model.lm_head.weight is model.model.embed_tokens.weight,
        "dtypes": sorted({str(parameter.dtype) for parameter in model.parameters()}),
        "collectives": log.seen,
    }


def main(output: Path) -> None:
    loss_module.LOGITS_PER_CHUNK = 5 * VOCABULARY  # several chunks of logits in every row
    is_first = os.environ["RANK"] == "0"
    report: dict[str, object] = {}
    if is_first:
        report["reference"] = train_reference(output)
    for name, (changes, precision, steps) in VARIANTS.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        log = CollectiveLog()
        with log:
            accelerator, model, losses, norms = train_sharded(
                ParallelSettings(device="cpu", **changes), precision, steps, log
            )
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(model, options=options)
        if is_first:
            report[name] = {"losses": losses, "norms": norms, **describe_run(accelerator, model, log)}
            weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
            save_file(
                {key: tensor.clone() for key, tensor in weights.items()}, output / f"{name}.safetensors"
            )
        accelerator.wait_for_everyone()
    if is_first:
        (output / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
