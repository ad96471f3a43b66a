"""Numbers that are not finite end a run, with the step, the rows and the checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from biomedllama_cli.engine.loader import TrainingData
from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.engine.saved_runs import list_checkpoints, read_step
from biomedllama_cli.errors import ModelError


def check_finite(
    measured: StepFacts,
    *,
    step: int,
    learning_rate: float,
    is_scaled: bool,
    data: TrainingData,
    folder: Path,
    finish_saving: Callable[[], None],
) -> None:
    """Check what a step measured.

    Args:
        measured: losses of its rows and the gradient norm.
        step: counted from 1.
        learning_rate: of the step.
        is_scaled: whether an infinite gradient is ordinary: fp16's loss scaling skips that update.
        data: names the rows.
        folder: of the run.
        finish_saving: completes a checkpoint that is being written; called where the run ends here, on every rank.

    Raises:
        ModelError: a loss or the gradient is not finite.
    """
    broken = np.flatnonzero(~np.isfinite(measured.row_losses)).tolist()
    if not broken and (np.isfinite(measured.grad_norm) or is_scaled):
        return
    what, rows = ("loss", broken) if broken else ("gradient", list(range(len(measured.row_losses))))
    finish_saving()
    saved, caution = name_last_good(folder, step)
    raise ModelError(
        f"The {what} of step {step} is not finite (learning rate {learning_rate:.3g}, "
        f"{data.name_rows(step, rows)}); {saved}.",
        hint=f"{caution}Lower --peak-learning-rate, lengthen the warm-up, or use --precision bf16 or fp32; with "
        "--resume CHECKPOINT and another --output-dir a run goes on from there.",
    )


def name_last_good(folder: Path, step: int) -> tuple[str, str]:
    """Return which checkpoint is from before a step that broke, and a sentence of caution where it may be broken too.

    The weights that a step begins with are known to be sound only once its loss is finite. A checkpoint of the very
    step before may hold what broke this one.
    """
    earlier = [checkpoint for checkpoint in list_checkpoints(folder) if read_step(checkpoint) < step]
    if not earlier:
        return "nothing was saved before", ""
    if read_step(earlier[-1]) < step - 1:
        return f"the last good checkpoint is {earlier[-1]}", ""
    if len(earlier) > 1:
        caution = f"{earlier[-1]} is of the step before and may hold the cause already. "
        return f"the last checkpoint that is known to be good is {earlier[-2]}", caution
    return (
        f"the last checkpoint is {earlier[-1]}",
        "It is of the step before and may hold the cause already. ",
    )
