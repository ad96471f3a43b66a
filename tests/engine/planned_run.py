"""A few training steps in a process of its own, and the most memory that they took."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.activation_checkpointing import recompute_layers
from biomedllama_cli.engine.host_memory import map_large_blocks_apart
from biomedllama_cli.engine.optimizer import build_optimizer
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.recipes.forecast_memory import measure_program
from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, ParallelSettings


def read_memory(name: str) -> int:
    """Return a line of /proc/self/status (in bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def main(shape: str, precision: str, checkpointing: str, loss_memory: str, rows: int, length: int) -> None:
    """Train two steps of two micro-batches and print what the process had before, and its peak."""
    accelerator = build_accelerator(ParallelSettings(device="cpu"), NumericsSettings(precision=precision))
    # Gaps that the C library leaves between blocks it keeps are no part of a prediction.
    map_large_blocks_apart()
    before = measure_program(precision)
    model = load_model(shape, attention="documents", vocabulary_size=8000)
    model.train()
    if checkpointing != "none":
        recompute_layers(model, checkpointing)
    optimizer = build_optimizer(enable_token_losses(model, loss_memory), OptimizerSettings())
    model, optimizer = prepare(accelerator, model, optimizer)
    ids = torch.randint(0, 8000, (rows, length), generator=torch.Generator().manual_seed(0))
    positions = (torch.arange(length) % 200).expand(rows, -1)
    batch = {"input_ids": ids, "labels": ids.roll(-1, 1), "position_ids": positions}
    for _ in range(2):
        train_step(accelerator, model, optimizer, [batch, batch], StepFrame.plain(accelerator, 1.0, rows))
    print(json.dumps({"before": before, "peak": read_memory("VmHWM")}))


if __name__ == "__main__":
    main(*sys.argv[1:5], *map(int, sys.argv[5:]))  # type: ignore[call-arg]
