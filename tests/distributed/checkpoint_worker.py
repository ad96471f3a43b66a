"""The jobs of the tests of checkpoints: `checkpoint_worker.py OUTPUT_FOLDER JOBS`.

JOBS is JSON, a list of [processes, orders]; an order is [name, settings of the mesh, checkpoint's folder or null, last
step, in background]. Each order goes on from its checkpoint, or starts, and saves after its last step. Two processes
then look at what one has saved, one of them too early.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from forked_job import run_job
from torch import distributed
from transformers import LlamaConfig, LlamaForCausalLM

from biomedllama_cli.engine import agreement
from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.checkpoint import Progress, RunFolder, Saver, load_optimizer, load_progress
from biomedllama_cli.engine.optimizer import build_optimizer, set_learning_rate
from biomedllama_cli.engine.rows import Batch
from biomedllama_cli.engine.run_folder import RunStart
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.errors import OutputError
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.settings.pretrain import (
    CheckpointSettings,
    NumericsSettings,
    OptimizerSettings,
    ParallelSettings,
)

ROWS, LENGTH, VOCABULARY = 8, 12, 50  # rows of the tables do not divide by four
OPTIMIZER = OptimizerSettings(peak_learning_rate=1e-2, max_grad_norm=0.5, weight_decay=0.1)
CONFIG = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


def build_rows(step: int) -> list[Batch]:
    """The rows of a step, as `engine.rows` makes them."""
    generator = torch.Generator().manual_seed(
        step % 2
    )  # two steps again and again: there is something to learn
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=generator)
    positions = torch.arange(LENGTH)[None]
    return [
        {
            "input_ids": ids[n : n + 1, :-1],
            "labels": ids[n : n + 1, 1:],
            "position_ids": positions,
        }
        for n in range(ROWS)
    ]


def train(output: Path, name: str, mesh: dict[str, Any], start: str | None, last: int, *, later: bool) -> Any:
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = build_accelerator(
        ParallelSettings(device="cpu", **mesh), NumericsSettings(precision="fp32")
    )
    torch.manual_seed(0)
    checkpoint = output / start if start else None
    model = load_model(str(checkpoint)) if checkpoint else LlamaForCausalLM(CONFIG)
    optimizer = build_optimizer(enable_token_losses(model), OPTIMIZER)
    model, optimizer = prepare(accelerator, model, optimizer)
    first = 0
    if checkpoint is not None:
        load_optimizer(checkpoint, model, optimizer)
        first = load_progress(checkpoint).step
    (output / "tokenizer").mkdir(exist_ok=True)
    settings = CheckpointSettings(save_in_background=later)
    saver = Saver(RunFolder(output / name, output / "tokenizer", {}), accelerator, settings)
    frame = StepFrame.plain(accelerator, OPTIMIZER.max_grad_norm, 1)
    losses, saved = [], []
    for step in range(first + 1, last + 1 + later):
        set_learning_rate(optimizer, OPTIMIZER.peak_learning_rate)
        rows = build_rows(step)[accelerator.process_index :: accelerator.num_processes]
        losses.append(train_step(accelerator, model, optimizer, rows, frame).loss)
        saved.append(saver.poll())
        if step == last:  # a save in the background is trained over by one more step
            saved.append(saver.save(model, optimizer, Progress(step, 0, {}, {})))
    saved.append(saver.finish())
    (done,) = [each for each in saved if each]
    return {
        "losses": losses,
        "write": done["checkpoint/write_seconds"],
        "stall": done["checkpoint/stall_seconds"],
    }


def look_apart(output: Path) -> dict[str, Any]:
    """Let rank 1 see the checkpoint only when it looks again, and then never."""
    agreement.PAUSE_SECONDS, agreement.LOOKS = 0.0, 3
    checkpoint = output / "one" / "checkpoints" / "step-00000004"
    nothing = RunStart(output / "one")
    there = RunStart(output / "one", checkpoint, load_progress(checkpoint))
    late = nothing if os.environ["RANK"] == "1" else there
    agreed = agreement.agree_on_start(late, lambda: there, lambda start: "")
    try:
        agreement.agree_on_start(late, lambda: late, lambda start: "")
    except OutputError as error:
        return {"agreed": str(agreed.checkpoint), "told": error.message}
    raise AssertionError("two different starts were taken for one")


def follow(output: Path, number: int, orders: list[Any]) -> None:
    """Follow the orders in one rank of a job."""
    report = {
        name: train(output, name, mesh, start, last, later=later) for name, mesh, start, last, later in orders
    }
    if os.environ["WORLD_SIZE"] == "2":
        (output / f"apart-{os.environ['RANK']}.json").write_text(json.dumps(look_apart(output)))
    if os.environ["RANK"] == "0":
        (output / f"report-{number}.json").write_text(json.dumps(report))
    if distributed.is_initialized():
        distributed.destroy_process_group()


def main(output: Path, jobs: str) -> None:
    for number, (processes, orders) in enumerate(json.loads(jobs)):
        run_job(processes, processes, partial(follow, output, number, orders))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
