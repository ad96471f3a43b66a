"""Loss on held-out examples during a run."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator

from biomedllama_cli.engine.step import count_targets
from biomedllama_cli.engine.tuning_data import lay_out_examples
from biomedllama_cli.engine.tuning_rows import TuningRows
from biomedllama_cli.engine.validation import Validation, score_held_out
from biomedllama_cli.errors import DataError


class TuningValidator:
    """Score held-out examples, or an evenly spaced part of them, with the model in training.

    Args:
        rows: the held-out examples.
        micro_batch_size: rows one rank forwards at once.
        packing: put several examples into one row.
        max_examples: used at most; None takes all.

    Raises:
        DataError: no token of them carries loss.
    """

    def __init__(
        self, rows: TuningRows, *, micro_batch_size: int, packing: bool, max_examples: int | None = None
    ) -> None:
        count = min(len(rows), max_examples or len(rows))
        self._examples = np.arange(count, dtype=np.int64) * len(rows) // max(count, 1)
        self._rows, self._micro_batch_size, self._packing = rows, micro_batch_size, packing
        if not count or not count_targets([rows.__getitems__([[int(number)]]) for number in self._examples]):
            raise DataError(
                f"No token of the {count} held-out examples carries loss.",
                hint="Hold out more examples, or none.",
            )

    def run(self, accelerator: Accelerator, model: torch.nn.Module) -> Validation:
        """Score them on all ranks; every rank must call it, and all get the same result."""
        layout = lay_out_examples(
            self._rows,
            self._examples,
            rows_at_once=self._micro_batch_size,
            ranks=accelerator.num_processes,
            packing=self._packing,
        )
        batches = map(self._rows.__getitems__, layout[accelerator.process_index])
        return Validation(score_held_out(accelerator, model, batches))
