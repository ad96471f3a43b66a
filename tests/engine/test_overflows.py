"""Runs in fp16 whose every update is left out come to an end; one that overflows now and then goes on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.engine.overflows import LONGEST_OVERFLOW, Overflows
from biomedllama_cli.errors import ModelError


def describe(step: int, grad_norm: float) -> StepFacts:
    none, nobody = np.zeros(0), np.zeros(0, np.int64)
    return StepFacts(
        step=step,
        grad_norm=grad_norm,
        row_losses=none,
        row_targets=none,
        rank_seconds=np.zeros((1, 2)),
        row_ids=nobody,
        row_checks=nobody,
        was_accepted=math.isfinite(grad_norm),
        seconds=1.0,
    )


@pytest.mark.parametrize("grad_norm", [math.inf, math.nan])
def test_a_run_whose_every_update_overflows_ends(grad_norm: float) -> None:
    overflows = Overflows()
    for step in range(1, LONGEST_OVERFLOW):
        overflows.note(describe(step, grad_norm))
    with pytest.raises(ModelError, match=f"last {LONGEST_OVERFLOW} steps, up to step {LONGEST_OVERFLOW}"):
        overflows.note(describe(LONGEST_OVERFLOW, grad_norm))


def test_a_finite_gradient_between_starts_the_count_anew() -> None:
    overflows = Overflows()
    for step in range(1, 4 * LONGEST_OVERFLOW):
        overflows.note(describe(step, 1.0 if step % LONGEST_OVERFLOW == 0 else math.inf))
