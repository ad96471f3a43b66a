"""What the loop is given, and what it counts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from transformers import PreTrainedModel

from biomedllama_cli.engine.checkpoint_folder import Best
from biomedllama_cli.settings.pretrain import (
    CheckpointSettings,
    MonitorSettings,
    OptimizerSettings,
    ScheduleSettings,
)


class ProgressReporter(Protocol):
    """Where the loop tells how far it is."""

    def start_at(self, done: float) -> None:
        """Say how many steps an earlier start of the run has done, just before the first one of this start."""
        ...

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Add finished steps."""
        ...


@dataclass(frozen=True)
class LoopSettings:
    """The sections that the loop reads.

    Attributes:
        data_rank: whose rows this rank has; ranks that share a sequence have the same.
        data_ranks: how many there are.
        data_workers: loader processes of each rank.
        flops_per_token: of a forward and a backward pass.
        peak_flops: of one device (FLOP/s), or None where no MFU is shown.
        keep_best: save wherever the held-out loss is the lowest so far, and keep that checkpoint.
        patience: end after so many looks at what is held out without a better one; None never does.
    """

    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    checkpoint: CheckpointSettings
    monitor: MonitorSettings
    data_rank: int
    data_ranks: int
    data_workers: int
    flops_per_token: float
    peak_flops: float | None
    keep_best: bool = False
    patience: int | None = None


@dataclass(frozen=True)
class Trainee:
    """What is trained, prepared for its devices."""

    accelerator: Accelerator
    model: PreTrainedModel
    optimizer: Any


@dataclass
class Tally:
    """What the loop counts while it runs."""

    step: int
    tokens_seen: int
    checkpoint: Path | None = None
    best: Best = field(default_factory=Best)
    stop_seen: bool = False
    train_seconds: float = 0.0
    trained_tokens: int = 0
    clock: float = field(default_factory=time.perf_counter)
