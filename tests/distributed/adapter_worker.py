"""One rank of the tests of sharded adapters: `adapter_worker.py BASE_FOLDER OUTPUT_FOLDER`.

Every variant trains on the same rows; rank 0 writes the losses, the checkpoints are saved by all.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.checkpoint import Progress, RunFolder, Saver, load_optimizer
from biomedllama_cli.engine.optimizer import build_optimizer, set_learning_rate
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.models.adapters import add_adapter, choose_base_dtype, load_adapter_weights
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.settings.pretrain import (
    CheckpointSettings,
    NumericsSettings,
    OptimizerSettings,
    ParallelSettings,
)
from biomedllama_cli.settings.tuning import AdapterSettings

STEPS, SAVED_STEP, ROWS, LENGTH, VOCABULARY = 6, 3, 8, 12, 48
OPTIMIZER = OptimizerSettings(peak_learning_rate=1e-2, max_grad_norm=0.5, weight_decay=0.1)
# Method, mesh of four ranks, precision, gradient checkpointing.
VARIANTS: dict[str, tuple[str, dict[str, Any], str, bool]] = {
    "lora-2x2": ("lora", {"dp_replicate_size": 2}, "fp32", False),
    "lora-1x4": ("lora", {}, "fp32", True),
    "dora-2x2": ("dora", {"dp_replicate_size": 2}, "fp32", False),
    "lora-copies": ("lora", {"sharding": "replicate"}, "fp32", True),
    "lora-2x2-bf16": ("lora", {"dp_replicate_size": 2}, "bf16", False),
}


def build_rows(step: int) -> list[dict[str, torch.Tensor]]:
    """The rows of a step, each of another length of targets, one without any."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=generator)
    labels = ids[:, 1:].clone()
    for row in range(ROWS):
        labels[row, : row * LENGTH // (ROWS - 1)] = -100
    positions = torch.arange(LENGTH)[None]
    return [
        {"input_ids": ids[n : n + 1, :-1], "labels": labels[n : n + 1], "position_ids": positions}
        for n in range(ROWS)
    ]


def train(name: str, base: Path, output: Path, *, resume: Path | None = None) -> dict[str, Any]:
    """Train one variant; the ranks share the rows of every step."""
    method, mesh, precision, checkpointing = VARIANTS[name]
    world_size = int(os.environ["WORLD_SIZE"])
    AcceleratorState._reset_state(reset_partial_state=True)
    numerics = NumericsSettings(precision=precision)
    parallel = ParallelSettings(device="cpu", **(mesh if world_size > 1 else {}))
    accelerator = build_accelerator(parallel, numerics)
    torch.manual_seed(17 + accelerator.process_index)  # the adapters must not depend on it
    model = load_model(str(base), dtype=choose_base_dtype(method, precision))
    add_adapter(model, AdapterSettings(method=method, rank=4, alpha=8.0), seed=0)
    if resume is not None:
        load_adapter_weights(model, resume, hash_base=accelerator.is_main_process)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = build_optimizer(enable_token_losses(model), OPTIMIZER)
    model, optimizer = prepare(accelerator, model, optimizer)
    if resume is not None:
        load_optimizer(resume, model, optimizer)
    run = RunFolder(output / f"{name}-{world_size}{'-resumed' if resume else ''}", base / "tokenizer", {})
    losses, norms = [], []
    frame = StepFrame.plain(accelerator, OPTIMIZER.max_grad_norm, 1)
    for step in range(SAVED_STEP + 1 if resume else 1, STEPS + 1):
        set_learning_rate(optimizer, OPTIMIZER.peak_learning_rate)
        rows = build_rows(step)[accelerator.process_index :: world_size]
        measured = train_step(accelerator, model, optimizer, rows, frame)
        losses.append(measured.loss)
        norms.append(measured.grad_norm)
        if step in (SAVED_STEP, STEPS):
            with GatheredNumbers() as gathered:
                Saver(run, accelerator, CheckpointSettings()).save(
                    model, optimizer, Progress(step, 0, {}, {})
                )
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return {"losses": losses, "norms": norms, "gathered": gathered.count, "frozen": frozen}


class GatheredNumbers(TorchDispatchMode):
    """Count the numbers that arrive by gathering shards."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor unwraps itself and comes back with its collectives
        result = func(*args, **(kwargs or {}))
        if func.namespace == "_c10d_functional" and "all_gather" in func.__name__:
            self.count += result.numel()
        return result


def main(base: Path, output: Path) -> None:
    report = {name: train(name, base, output) for name in VARIANTS}
    world_size = os.environ["WORLD_SIZE"]
    for other in ("1", "4"):  # the checkpoints of one process, and of four, once they are there
        saved = output / f"lora-2x2-{other}" / "checkpoints" / f"step-{SAVED_STEP:08d}"
        if saved.is_dir():
            report[f"resumed-{other}"] = train("lora-2x2", base, output, resume=saved)
    if os.environ["RANK"] == "0":
        (output / f"report-{world_size}.json").write_text(json.dumps(report))
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
