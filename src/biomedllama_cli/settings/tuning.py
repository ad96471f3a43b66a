"""Sections that `finetune` and `instruct` share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from biomedllama_cli.settings.base import Settings
from biomedllama_cli.settings.pretrain import (
    BatchSettings,
    CheckpointSettings,
    DurationSettings,
    Fraction,
    MonitorSettings,
    NumericsSettings,
    OptimizerSettings,
    ScheduleSettings,
)

Method = Literal["full", "lora", "qlora", "dora"]


class AdapterSettings(Settings):
    """Which weights are trained."""

    method: Method = "full"
    """All weights, or adapters beside frozen ones: LoRA, LoRA on a base quantised to 4 bits, or DoRA."""
    rank: PositiveInt = 16
    """Rank of the adapters; where the method is full, the settings of adapters are refused."""
    alpha: PositiveFloat = 32.0
    """Scale of the adapters; their output is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout before the adapters (a fraction)."""
    target_modules: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter; repeatable [default: all of the decoder]."""
    merge: bool = False
    """Merge the adapters into a plain transformers folder, `merged/` of the run folder, at the end."""


def check_adapter(adapter: AdapterSettings) -> None:
    """Check that nothing of adapters is set where all weights are trained: it would change nothing.

    Raises:
        ValueError: something is.
    """
    fields = AdapterSettings.model_fields
    idle = [name for name in fields if getattr(adapter, name) != fields[name].default and name != "method"]
    if adapter.method == "full" and idle:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        need = "needs" if len(idle) == 1 else "need"
        raise ValueError(
            f"{flags} {need} --method lora, dora or qlora: the method is full, which trains all weights and no adapters"
        )


class RowSettings(Settings):
    """How examples become rows of tokens."""

    template: Literal["auto", "plain", "chat"] = "auto"
    """How conversations are written: the model's own chat template, plain text, or the first where there is one."""
    train_on: Literal["all-turns", "last-turn"] = "all-turns"
    """Which of the assistant's turns carry loss."""
    packing: bool = True
    """Put several examples into one row, none of which sees another."""
    max_refused: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the examples that may be left out because question, answer and EOS do not fit (a fraction); of a mixture
    all examples count, whatever a `cap` takes of them."""


class TuningBatchSettings(BatchSettings):
    """How examples are grouped into steps."""

    sequence_length: PositiveInt = 2048
    """Longest example, and length of a packed row (in tokens); the default is lowered to the model's positions."""
    micro_batch_size: PositiveInt = 1
    """Rows one rank forwards at once (in rows)."""
    global_batch_size: PositiveInt = 128
    """Examples per optimizer step, summed over all ranks (in examples)."""


class TuningDurationSettings(DurationSettings):
    """How long to train."""

    epochs: PositiveFloat = 3.0
    """Passes over the training examples (in epochs)."""
    patience: PositiveInt | None = None
    """Stop after so many validations without a better one (in validations); needs held-out examples."""


class TuningOptimizerSettings(OptimizerSettings):
    """AdamW."""

    peak_learning_rate: PositiveFloat = 2e-5
    """Learning rate at the end of the warm-up."""
    adam_beta2: Fraction = 0.999
    """Decay of the second moment."""
    weight_decay: NonNegativeFloat = 1e-4
    """Decoupled weight decay; vectors (norms, biases) have none unless `decay_vectors`."""


class TuningScheduleSettings(ScheduleSettings):
    """Cosine with linear warm-up."""

    final_learning_rate_fraction: Fraction = 0.0
    """Learning rate at the last step as a fraction of the peak."""


class TuningCheckpointSettings(CheckpointSettings):
    """Saving."""

    save_every_steps: PositiveInt = 200
    """Steps between checkpoints (in steps); the last step and the best one are always saved."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept (in checkpoints), beside the best one."""


class TuningMonitorSettings(MonitorSettings):
    """Validation and metrics."""

    validate_every_steps: PositiveInt = 100
    """Steps between validations (in steps); the first and the last step are always validated."""
    validation_sequences: PositiveInt | None = None
    """Held-out examples used (in examples) [default: all]."""


class TuningNumericsSettings(NumericsSettings):
    """Precision, attention and memory."""


class DecontaminationSettings(Settings):
    """Benchmark questions in training examples."""

    decontaminate: Literal["drop", "report", "off"] = "drop"
    """Drop examples that hold benchmark items, only report them, or do not look."""
    benchmark: tuple[str, ...] = ()
    """NAME=FILE or NAME (from the hub): benchmarks to look for; repeatable [default: medqa, medmcqa and pubmedqa as far
    as they can be had, and the test file that is given]."""
