"""The arms of benchmarks/pretrain.py, each run in a process of its own: ours, and transformers' Trainer.

    python benchmarks/pretrain_arms.py SETTING.json "ours: chunks"

prints the arm's outcome as the last line. The peers' arms are in pretrain_peers.py.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pretrain_setting import (
    BETAS,
    EPSILON,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    WEIGHT_DECAY,
    Outcome,
    Setting,
    Stopwatch,
    read_memory,
    read_rows,
)

OURS, BORDERS, APART, TRAINER = "ours", "ours, documents", "ours, blocks apart: fused", "HF Trainer"
PLAIN, CHUNKS = f"{OURS}: plain", f"{OURS}: chunks"
LINEAR = "linear_cross_entropy"
PRODUCT_ARMS = (OURS, PLAIN, CHUNKS)
"""What --loss-memory gives; the first is its default."""
ALTERNATIVE_ARMS = (f"{LINEAR}: auto", f"{LINEAR}: accurate", APART)
"""What no setting gives: torch's own losses, and blocks of memory that are all mapped apart."""


def run_ours(setting: Setting, arm: str) -> Outcome:
    """Train with the functions that `biomedllama pretrain` runs."""
    import numpy as np
    import torch

    from biomedllama_cli.engine.accelerator import build_accelerator
    from biomedllama_cli.engine.host_memory import map_large_blocks_apart
    from biomedllama_cli.engine.optimizer import set_learning_rate
    from biomedllama_cli.engine.step import StepFrame, train_step
    from biomedllama_cli.models.load import load_model
    from biomedllama_cli.recipes.training import build_trainee, choose_attention
    from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, ParallelSettings

    memory = arm.partition(": ")[2] if arm in (PLAIN, CHUNKS, APART) else NumericsSettings().loss_memory
    numerics = NumericsSettings.model_validate(
        {"precision": setting.precision, "loss_memory": memory, "compile": setting.compiled}
    )
    if arm == APART:
        map_large_blocks_apart()
    accelerator = build_accelerator(ParallelSettings.model_validate({"device": setting.device}), numerics)
    model = load_model(str(setting.model), attention=choose_attention(numerics, accelerator.device))
    optimizer = OptimizerSettings(
        peak_learning_rate=LEARNING_RATE, adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPSILON,
        weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_GRAD_NORM, decay_vectors=True,
    )  # fmt: skip
    sections: Any = SimpleNamespace(numerics=numerics, optimizer=optimizer)
    trainee = build_trainee(accelerator, model, sections, None)
    if arm.startswith(LINEAR):
        replace_loss(model, arm.partition(": ")[2])
    trainee.model.train()
    outcome = Outcome(loaded_mib=read_memory("VmRSS"), notes=f"loss memory {memory}")
    places = np.load(setting.starts, allow_pickle=False)
    for step, batch in enumerate(read_rows(setting)):
        rows, length = batch["input_ids"].shape
        plain = torch.arange(length).expand(rows, -1)
        batch["position_ids"] = torch.from_numpy(places[step]) if arm == BORDERS else plain
        frame = StepFrame.plain(accelerator, MAX_GRAD_NORM, rows)
        with Stopwatch(outcome, setting.device):
            set_learning_rate(trainee.optimizer, LEARNING_RATE)
            outcome.losses.append(
                train_step(accelerator, trainee.model, trainee.optimizer, [batch], frame).loss
            )
        outcome.tokens = rows * length
    return outcome


def replace_loss(model: Any, policy: str) -> None:
    """Put torch's own linear_cross_entropy in the place of our loss; `auto` is all its defaults."""
    from types import MethodType

    import torch
    from torch.nn import functional

    options = torch.nn.LinearCrossEntropyOptions(acc_policy=policy)

    def find_losses(self: Any, hidden_ND: torch.Tensor, *, target_ids_N: torch.Tensor) -> torch.Tensor:
        weight_VD = self.weight
        if torch.is_autocast_enabled(hidden_ND.device.type):
            dtype = torch.get_autocast_dtype(hidden_ND.device.type)
            hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        losses_N = functional.linear_cross_entropy(
            hidden_ND, weight_VD, target_ids_N, reduction="none", options=options
        )
        return losses_N.float()

    head = model.get_output_embeddings()
    head.forward = MethodType(find_losses, head)


def run_trainer(setting: Setting, arm: str) -> Outcome:
    """Train with transformers' Trainer, its own loss and its fused AdamW."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        default_data_collator,
    )

    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)
    model.config.use_cache = False
    steps = [batch["input_ids"] for batch in read_rows(setting)]
    rows = len(steps[0])
    arguments = TrainingArguments(
        output_dir=str(setting.folder / "trainer"), per_device_train_batch_size=rows, max_steps=len(steps),
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", adam_beta1=BETAS[0], adam_beta2=BETAS[1],
        adam_epsilon=EPSILON, weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_GRAD_NORM,
        bf16=setting.precision == "bf16", use_cpu=setting.device == "cpu", optim="adamw_torch_fused",
        torch_compile=setting.compiled, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    outcome = Outcome(
        loaded_mib=read_memory("VmRSS"), tokens=steps[0].numel(), notes=f"{arm}: eager loss of all logits"
    )
    watch = Stopwatch(outcome, setting.device)

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.__enter__()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.__exit__()

    class Decaying(Trainer):  # type: ignore[misc]
        def get_decay_parameter_names(self, model: Any) -> list[str]:
            return [name for name, _ in model.named_parameters()]  # all, as the peers do

        def get_train_dataloader(self) -> Any:  # in their order
            data = [{"input_ids": row, "labels": row} for step in steps for row in step]
            return torch.utils.data.DataLoader(data, batch_size=rows, collate_fn=default_data_collator)

    trainer = Decaying(model=model, args=arguments, train_dataset=[0] * len(steps), callbacks=[Timer()])
    trainer.train()
    outcome.losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return outcome


def run_arm(setting: Setting, arm: str) -> Outcome:
    """Run one arm in this process, after its threads are set."""
    import torch

    torch.set_num_threads(setting.threads)
    if arm == TRAINER:
        outcome = run_trainer(setting, arm)
    elif arm.startswith((OURS, LINEAR)):
        outcome = run_ours(setting, arm)
    else:
        from pretrain_peers import PEERS

        outcome = PEERS[arm].train(setting)
    outcome.peak_mib = read_memory("VmHWM")
    if setting.device == "cuda":
        outcome.peak_mib = torch.cuda.max_memory_allocated() / 2**20
    return outcome


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    print(json.dumps(asdict(run_arm(Setting.load(Path(sys.argv[1])), sys.argv[2]))))
