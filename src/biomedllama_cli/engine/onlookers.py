"""Who looks at a run while it trains: what may refuse an update, what notes each step, what measures, what is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from biomedllama_cli.engine.checkpoint_folder import GateState


@dataclass(frozen=True)
class StepFacts:
    """What a step measured, the same on every rank.

    Attributes:
        row_losses: summed loss of every row of the step (in nats), float64 [ranks * micro-batches * rows at once];
            places without a row hold 0.
        row_targets: target tokens of each, as `row_losses`.
        grad_norm: global L2 norm before clipping.
        rank_seconds: what every rank said of its time (in seconds), float64 [world_size, kinds]; see `RANK_TIMES`.
        row_ids: what the ranks' batches said they hold, int64 as `row_losses`; -1 for a place without a row, or where
            batches say nothing of it.
        row_checks: checksums that came with them, int64 as `row_losses`.
        ranks_asked_to_stop: how many ranks got a signal.
        was_accepted: whether the weights were updated.
        step: counted from 1; 0 until the loop has said it.
        seconds: of the whole step on this rank; 0 until the loop has said it.
    """

    row_losses: npt.NDArray[np.float64]
    row_targets: npt.NDArray[np.float64]
    grad_norm: float
    rank_seconds: npt.NDArray[np.float64]
    row_ids: npt.NDArray[np.int64]
    row_checks: npt.NDArray[np.int64]
    ranks_asked_to_stop: int = 0
    was_accepted: bool = True
    step: int = 0
    seconds: float = 0.0

    @property
    def target_tokens(self) -> int:
        """Return the target tokens of the step."""
        return int(self.row_targets.sum())

    @property
    def loss(self) -> float:
        """Return the mean loss per target token (in nats); summed exactly, whatever the number of ranks."""
        return math.fsum(self.row_losses.tolist()) / max(self.target_tokens, 1)


RANK_TIMES = ("loader", "compute")
"""Kinds of `rank_seconds`: waiting for the loader in this step; and computing in the step before, without its waits for
other ranks (0 where nobody measures it)."""


class Gate(Protocol):
    """May refuse an update. Its state is part of a checkpoint, so that a resumed run refuses the same ones."""

    def accept(self, loss: float, grad_norm: float) -> bool:
        """Say whether the update is made; every rank asks with the same numbers and must get the same answer."""
        ...

    def save(self) -> GateState:
        """Return the state."""
        ...

    def load(self, state: GateState) -> None:
        """Go on from a saved state."""
        ...


class Watcher:
    """Is told of every step; each method does nothing unless it is overridden."""

    def begin(self, step: int) -> None:
        """Start after a step: 0, or that of the checkpoint that is continued. Every rank calls it."""

    def note(self, facts: StepFacts) -> Mapping[str, float]:
        """Note one step; the numbers returned go into its line of metrics.jsonl. Every rank calls it."""
        return {}

    def flush(self) -> None:
        """Put what was noted on the disk: a checkpoint is about to be complete."""

    def close(self) -> None:
        """Let go of files: the run ends, however it ends."""


class Meter(Protocol):
    """Measures the model at some steps."""

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Say whether to measure after this step; 0 is before the first."""
        ...

    def measure(self, accelerator: Accelerator, model: torch.nn.Module, step: int) -> Mapping[str, float]:
        """Return numbers for metrics.jsonl; every rank calls it, and all get the same."""
        ...


class MetricSink(Protocol):
    """Is told every line of metrics.jsonl, on rank 0."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Take one line; it holds a `step`."""
        ...

    def close(self) -> None:
        """Finish: the run ends, however it ends."""
        ...


@dataclass(frozen=True)
class Onlookers:
    """All of them.

    Attributes:
        gate: may refuse updates, or None.
        watchers: note every step.
        meters: measure the model at some.
        sinks: are told the metrics.
    """

    gate: Gate | None = None
    watchers: Sequence[Watcher] = ()
    meters: Sequence[Meter] = ()
    sinks: Sequence[MetricSink] = ()


NOBODY = Onlookers()
