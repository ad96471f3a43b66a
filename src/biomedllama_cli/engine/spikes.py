"""Refuses updates of steps whose loss or gradient norm is far above those of the last steps."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from biomedllama_cli.engine.checkpoint_folder import GateState
from biomedllama_cli.engine.onlookers import StepFacts, Watcher

logger = logging.getLogger(__name__)

LONGEST_SPIKE = 8
"""Steps in a row; what lasts longer is a new level (other data, another learning rate), which is then learned."""
_LEAST_DEVIATION = 1e-3
"""Of the mean: a run that has stood still has no deviation of its own, and not every movement is a spike."""
_NAMED_ROWS = 3


def count_deviations(value: float, last: Sequence[float]) -> float:
    """Return how many standard deviations a value lies above the mean of the last ones.

    >>> round(count_deviations(3.0, [1.0, 2.0, 1.0, 2.0]), 2)
    2.6
    """
    mean = math.fsum(last) / len(last)
    variance = math.fsum((each - mean) ** 2 for each in last) / max(len(last) - 1, 1)
    return (value - mean) / max(math.sqrt(variance), _LEAST_DEVIATION * abs(mean), 1e-30)


@dataclass(frozen=True)
class Verdict:
    """What was found of a step.

    Attributes:
        loss: in nats per target token.
        grad_norm: before clipping.
        deviations: of both, above the mean of the last steps; None before there are enough of them.
        is_spike: whether one of them is too many.
        is_new_level: so many steps were in a row that they are taken for the new level.
    """

    loss: float
    grad_norm: float
    deviations: tuple[float, float] | None
    is_spike: bool
    is_new_level: bool = False


class SpikeGate(Watcher):
    """A gate that refuses updates, and a watcher that tells of it.

    What was refused is not part of what later steps are held against. A number that is not finite is nobody's spike:
    the loop stops there, and fp16 leaves such an update out by itself.

    Args:
        action: leave the update of a spike out, or only tell of it.
        deviations: standard deviations above the mean that make a spike.
        window: accepted steps it is held against; nothing is a spike before that many.
    """

    def __init__(self, action: Literal["skip", "warn"], *, deviations: float, window: int) -> None:
        self._action, self._deviations = action, deviations
        self._losses: deque[float] = deque(maxlen=window)
        self._grad_norms: deque[float] = deque(maxlen=window)
        self._in_a_row = self._spikes = 0
        self._verdict: Verdict | None = None

    def accept(self, loss: float, grad_norm: float) -> bool:
        """Say whether the update is made."""
        self._verdict = verdict = self._judge(loss, grad_norm)
        if verdict.is_spike:
            self._in_a_row += 1
            self._spikes += 1
            return self._action != "skip"
        self._in_a_row = 0
        if verdict.is_new_level:
            self._losses.clear()
            self._grad_norms.clear()
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._losses.append(loss)
            self._grad_norms.append(grad_norm)
        return True

    def _judge(self, loss: float, grad_norm: float) -> Verdict:
        is_full = len(self._losses) == self._losses.maxlen
        if not is_full or not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return Verdict(loss, grad_norm, None, is_spike=False)
        found = (count_deviations(loss, self._losses), count_deviations(grad_norm, self._grad_norms))
        is_far = max(found) > self._deviations
        is_new_level = is_far and self._in_a_row >= LONGEST_SPIKE
        return Verdict(
            loss, grad_norm, found, is_spike=is_far and not is_new_level, is_new_level=is_new_level
        )

    def save(self) -> GateState:
        """Return the state."""
        return GateState(list(self._losses), list(self._grad_norms), self._in_a_row, self._spikes)

    def load(self, state: GateState) -> None:
        """Go on from a saved state; of a longer window the newest steps are taken."""
        self._losses = deque(state.losses, maxlen=self._losses.maxlen)
        self._grad_norms = deque(state.grad_norms, maxlen=self._grad_norms.maxlen)
        self._in_a_row, self._spikes = state.in_a_row, state.spikes

    def note(self, facts: StepFacts) -> Mapping[str, float]:
        """Tell of a spike; return how far the step was above the last ones, and the spikes so far."""
        verdict = self._verdict
        if verdict is None or verdict.deviations is None:
            return {"spikes/found": self._spikes}
        if verdict.is_spike:
            consequence = (
                "its update is left out" if self._action == "skip" else "its update is made (--spikes warn)"
            )
            logger.warning(
                "step %d: %s: %s%s", facts.step, self._describe(verdict), consequence, name_worst(facts)
            )
        elif verdict.is_new_level:
            logger.warning(
                "step %d: %s, for more than %d steps in a row: taken for the new level, its update is made",
                facts.step,
                self._describe(verdict),
                LONGEST_SPIKE,
            )
        loss, grad_norm = verdict.deviations
        return {
            "spikes/loss_deviations": loss,
            "spikes/grad_norm_deviations": grad_norm,
            "spikes/found": self._spikes,
        }

    def _describe(self, verdict: Verdict) -> str:
        assert verdict.deviations is not None
        named = [
            f"{name} {value:.4g} is {found:.1f} standard deviations above the last {self._losses.maxlen} steps"
            for name, value, found in (
                ("the loss", verdict.loss, verdict.deviations[0]),
                ("the gradient norm", verdict.grad_norm, verdict.deviations[1]),
            )
            if found > self._deviations
        ]
        return " and ".join(named)


def name_worst(facts: StepFacts) -> str:
    """Return the sequences of a step that the model finds hardest, for a message; nothing where rows have no names."""
    known = np.flatnonzero((facts.row_ids >= 0) & (facts.row_targets > 0))
    if not len(known):
        return ""
    losses = facts.row_losses[known] / facts.row_targets[known]
    worst = np.argsort(-losses, kind="stable")[:_NAMED_ROWS]
    named = ", ".join(f"{facts.row_ids[known[place]]} ({losses[place]:.2f})" for place in worst)
    return f"; highest losses in sequences {named}"


def build_spike_gate(
    action: Literal["skip", "warn", "off"], *, deviations: float, window: int
) -> SpikeGate | None:
    """Return who looks for spikes, or None where nobody does."""
    return None if action == "off" else SpikeGate(action, deviations=deviations, window=window)
