"""One rank of the test of stragglers: `straggler_worker.py OUTPUT_FOLDER`; rank 1's layers are slow, under FSDP."""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.compute_clock import ComputeClock
from biomedllama_cli.engine.optimizer import build_optimizer
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.engine.stragglers import WINDOW, Stragglers
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, ParallelSettings


class Notes(logging.Handler):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    notes = Notes()
    logging.getLogger("biomedllama_cli.engine.stragglers").addHandler(notes)
    accelerator = build_accelerator(ParallelSettings(device="cpu"), NumericsSettings(precision="fp32"))
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32}
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=2))  # type: ignore[arg-type]
    if rank == 1:
        for layer in model.model.layers:
            layer.mlp.register_forward_hook(lambda *_: time.sleep(0.02))
    enable_token_losses(model)
    model, optimizer = prepare(accelerator, model, build_optimizer(model, OptimizerSettings()))
    clock = ComputeClock(model, accelerator.device)
    stragglers = Stragglers(accelerator, data_workers=0)
    stragglers.begin(0)
    ids = torch.arange(16)[None]
    batch = {"input_ids": ids, "labels": ids, "position_ids": ids}
    frame = StepFrame.plain(accelerator, 1.0, 1)
    ratios = []
    for step in range(1, WINDOW + 6):
        measured = train_step(accelerator, model, optimizer, [batch], frame, seconds=(0.0, clock.read()))
        facts = replace(measured, step=step, seconds=0.05)
        ratios.append(stragglers.note(facts).get("ranks/slowest_ratio", 0.0))
    if rank == 0:
        told = {"warnings": notes.told, "ratio": statistics.median(ratios)}
        (folder / "told.json").write_text(json.dumps(told))
    accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


main(Path(sys.argv[1]))
