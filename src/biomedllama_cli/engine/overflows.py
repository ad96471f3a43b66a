"""Ends a run in fp16 that makes no update any more."""

from __future__ import annotations

import math
from collections.abc import Mapping

from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.errors import ModelError

LONGEST_OVERFLOW = 64
"""Steps in a row whose gradient is not finite. The loss scaling halves at each: from 65,536 it is below the smallest
number of fp16 after 40, and what overflows then would overflow for ever."""


class Overflows:
    """A watcher of gradients that fp16's loss scaling leaves out; one now and then is ordinary."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def begin(self, step: int) -> None:
        """Start counting anew."""
        self._in_a_row = 0

    def note(self, facts: StepFacts) -> Mapping[str, float]:
        """Count one step.

        Raises:
            ModelError: no gradient of many steps was finite.
        """
        self._in_a_row = 0 if math.isfinite(facts.grad_norm) else self._in_a_row + 1
        if self._in_a_row >= LONGEST_OVERFLOW:
            raise ModelError(
                f"No gradient of the last {LONGEST_OVERFLOW} steps, up to step {facts.step}, was finite, so no update "
                "was made in them.",
                hint="Use --precision bf16 or fp32, or lower --peak-learning-rate and lengthen the warm-up.",
            )
        return {}

    def flush(self) -> None:
        """Do nothing: nothing is kept."""

    def close(self) -> None:
        """Do nothing."""
