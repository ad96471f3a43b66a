"""The arms of benchmarks/tuning_packing.py, each run in a process of its own: TRL's SFTTrainer, and ours.

TRL packs the examples, draws their order and is written down as it trains; ours then trains on the same examples in the
same steps, packed or padded, through the functions that `finetune` runs.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.optimizer import build_optimizer, set_learning_rate
from biomedllama_cli.engine.order import epoch_permutation
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.engine.tuning_data import lay_out_examples
from biomedllama_cli.engine.tuning_rows import TuningRows
from biomedllama_cli.instructions.encoding import EncodedSet
from biomedllama_cli.instructions.packing import Pack
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.recipes.training import choose_attention
from biomedllama_cli.settings.pretrain import NumericsSettings, ParallelSettings
from biomedllama_cli.settings.tuning import TuningOptimizerSettings

OPTIMIZER = TuningOptimizerSettings()
Layout = Literal["packed", "sorted", "as they come", "full"]
"""Rows of ours: packed; or one example each, padded to a micro-batch's longest, sorted by length or not, or in full."""


@dataclass(frozen=True)
class Setting:
    """What every arm has in common.

    Attributes:
        model: transformers folder.
        examples: file of token ids, targets and starts.
        sequence_length: of a packed row (in tokens).
        rows_per_step: packed rows that TRL takes per step; it forwards them one by one.
        steps: that are trained.
        precision: of the computation; weights are fp32.
        seed: of TRL's order.
        eos_id: for padding.
        folder: where TRL may write.
    """

    model: Path
    examples: Path
    sequence_length: int
    rows_per_step: int
    steps: int
    precision: Literal["fp32", "bf16"]
    seed: int
    eos_id: int
    folder: Path


@dataclass
class Outcome:
    """What one arm did.

    Attributes:
        losses: mean nats per target token of every step.
        grad_norms: before clipping.
        seconds: of every step.
        useful_tokens: tokens of every step's examples.
        positions: that every step computed.
        forwards: of every step.
        examples: numbers of every step's examples.
        peak_bytes: of the process.
    """

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    useful_tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    forwards: list[int] = field(default_factory=list)
    examples: list[list[int]] = field(default_factory=list)
    peak_bytes: int = 0


def load_examples(path: Path) -> EncodedSet:
    """Load the examples that the arms share."""
    with np.load(path) as arrays:
        count = len(arrays["starts"]) - 1
        names = [str(number) for number in range(count)]
        lost = np.zeros(count, dtype=np.int64)
        return EncodedSet(arrays["token_ids"], arrays["trained"], arrays["starts"], names, names, lost)


def run_ours(setting: Setting, steps: list[list[int]], layout: Layout, rows_at_once: int) -> Outcome:
    """Train on these examples per step, packed or padded."""
    rows = TuningRows(
        load_examples(setting.examples),
        eos_id=setting.eos_id,
        sequence_length=setting.sequence_length,
        pad_to="full" if layout == "full" else "longest",
    )
    accelerator = build_accelerator(
        ParallelSettings(device="cpu"), NumericsSettings(precision=setting.precision)
    )
    attention = choose_attention(NumericsSettings(precision=setting.precision), accelerator.device)
    model = enable_token_losses(load_model(str(setting.model), attention=attention))
    model, optimizer = prepare(accelerator, model, build_optimizer(model, OPTIMIZER))
    model.train()
    outcome = Outcome(examples=steps)
    frame = StepFrame.plain(accelerator, OPTIMIZER.max_grad_norm, rows_at_once)
    for examples in steps:
        start = time.perf_counter()
        batches = [rows.__getitems__(packs) for packs in lay_out(rows, examples, layout, rows_at_once)]
        set_learning_rate(optimizer, OPTIMIZER.peak_learning_rate)
        measured = train_step(accelerator, model, optimizer, batches, frame)
        outcome.losses.append(measured.loss)
        outcome.grad_norms.append(measured.grad_norm)
        outcome.seconds.append(time.perf_counter() - start)
        outcome.useful_tokens.append(int(rows.encoded.lengths[examples].sum()))
        outcome.positions.append(sum(batch["input_ids"].numel() for batch in batches))
        outcome.forwards.append(len(batches))
    outcome.peak_bytes = peak_bytes()
    return outcome


def lay_out(rows: TuningRows, examples: list[int], layout: Layout, rows_at_once: int) -> list[list[Pack]]:
    """Return the micro-batches of a step."""
    if layout != "as they come":
        packing = layout == "packed"
        return lay_out_examples(rows, examples, rows_at_once=rows_at_once, ranks=1, packing=packing)[0]
    # TRL's packs are sorted by length; nobody's padded rows would be.
    shuffled = [[examples[place]] for place in epoch_permutation(len(examples), 0, 0)]
    return [shuffled[first : first + rows_at_once] for first in range(0, len(shuffled), rows_at_once)]


def run_trl(setting: Setting) -> Outcome:
    """Train with TRL's SFTTrainer, packed best-fit, and write down what it trains on and when."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encoded = load_examples(setting.examples)
    examples = [encoded.row(number) for number in range(len(encoded))]
    labels = [
        [token if trained else -100 for token, trained in zip(one.token_ids, one.trained, strict=True)]
        for one in examples
    ]
    token_ids = [one.token_ids for one in examples]
    model = AutoModelForCausalLM.from_pretrained(
        setting.model, dtype=torch.float32, attn_implementation="sdpa"
    )
    outcome = Outcome()
    trainer = build_recorded_trainer(
        token_ids,
        outcome,
        model=model,
        args=build_trl_config(setting),
        train_dataset=Dataset.from_dict({"input_ids": token_ids, "labels": labels}),
        processing_class=AutoTokenizer.from_pretrained(setting.model),
    )
    trainer.train()
    outcome.peak_bytes = peak_bytes()
    return outcome


def build_trl_config(setting: Setting) -> Any:
    """Return the settings of SFTTrainer that are those of our own arms."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(setting.folder / "trl"),
        packing=True,
        max_length=setting.sequence_length,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=setting.rows_per_step,
        max_steps=setting.steps,
        learning_rate=OPTIMIZER.peak_learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=OPTIMIZER.adam_beta1,
        adam_beta2=OPTIMIZER.adam_beta2,
        adam_epsilon=OPTIMIZER.adam_epsilon,
        weight_decay=OPTIMIZER.weight_decay,
        max_grad_norm=OPTIMIZER.max_grad_norm,
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        bf16=setting.precision == "bf16",
        use_cpu=True,
        seed=setting.seed,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def build_recorded_trainer(token_ids: list[list[int]], outcome: Outcome, **arguments: Any) -> Any:
    """Build an SFTTrainer that writes into `outcome` what it does."""
    from transformers import TrainerCallback
    from trl import SFTTrainer

    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, ids in enumerate(token_ids):
        numbers.setdefault(tuple(ids), []).append(number)
    start = 0.0

    class Recorder(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            nonlocal start
            outcome.losses.append(0.0)
            outcome.examples.append([])
            outcome.positions.append(0)
            outcome.forwards.append(0)
            start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            outcome.seconds.append(time.perf_counter() - start)
            outcome.useful_tokens.append(sum(len(token_ids[number]) for number in outcome.examples[-1]))

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "grad_norm" in logs:
                outcome.grad_norms.append(float(logs["grad_norm"]))

    class RecordedTrainer(SFTTrainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            assert "attention_mask" not in inputs, "a mask of ones would let examples see each other"
            ids, positions = inputs["input_ids"][0], inputs["position_ids"][0]
            starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
            row = [numbers[tuple(ids[first:end].tolist())].pop() for first, end in pairwise(starts)]
            outcome.examples[-1] += row
            outcome.positions[-1] += len(ids)
            outcome.forwards[-1] += 1
            loss = super().training_step(model, inputs, *args, **kwargs)
            outcome.losses[-1] += float(loss)
            return loss

    return RecordedTrainer(callbacks=[Recorder()], **arguments)


def peak_bytes() -> int:
    """Return the largest memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
