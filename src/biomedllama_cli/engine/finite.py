"""Numbers that are not finite end a run, with the step, the rows and the checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from biomedllama_cli.engine.loader import TrainingData
from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.engine.saved_runs import list_checkpoints, read_step
from biomedllama_cli.errors import ModelError

LONGEST_OVERFLOW = 64
"""Steps in a row whose gradient overflows in fp16. The loss scaling halves at each: from 65,536 it is below the
smallest number of fp16 after 40, and what overflows then would overflow for ever."""


class FiniteCheck:
    """Checks what every step measured; every rank has one, and all come to the same end.

    Args:
        data: names the rows.
        folder: of the run.
        is_scaled: whether an infinite gradient now and then is ordinary: fp16's loss scaling skips that update.
        finish_saving: completes a checkpoint that is being written; called where the run ends here.
    """

    def __init__(
        self, data: TrainingData, folder: Path, *, is_scaled: bool, finish_saving: Callable[[], None]
    ) -> None:
        self._data, self._folder, self._is_scaled = data, folder, is_scaled
        self._finish_saving = finish_saving
        self._overflows = 0

    def check(self, measured: StepFacts, step: int, learning_rate: float) -> None:
        """Check one step.

        Raises:
            ModelError: a loss or the gradient is not finite, or none was in many steps of fp16.
        """
        broken = np.flatnonzero(~np.isfinite(measured.row_losses)).tolist()
        self._overflows = 0 if np.isfinite(measured.grad_norm) else self._overflows + 1
        if broken or (self._overflows and not self._is_scaled):
            what, rows = ("loss", broken) if broken else ("gradient", list(range(len(measured.row_losses))))
            raise self._explain(
                f"The {what} of step {step} is not finite (learning rate {learning_rate:.3g}, "
                f"{self._data.name_rows(step, rows)})",
                step,
            )
        if self._overflows >= LONGEST_OVERFLOW:
            raise self._explain(
                f"No gradient of the last {LONGEST_OVERFLOW} steps, up to step {step}, was finite, so no update was "
                "made in them",
                step - LONGEST_OVERFLOW + 1,
            )

    def _explain(self, sentence: str, first: int) -> ModelError:
        """Return the error, with the checkpoint from before the first step that was not finite."""
        self._finish_saving()
        saved, caution = name_last_good(self._folder, first)
        return ModelError(
            f"{sentence}; {saved}.",
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
