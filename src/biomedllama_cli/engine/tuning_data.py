"""Which examples are trained on when, and in which rows: pure functions of the step, so that resuming costs nothing.

A step takes the next `global_batch_size` examples of the order, whether they are packed or not, and however many ranks
there are; packing only decides which of them share a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from biomedllama_cli.engine.loader import MicroBatch, Validates
from biomedllama_cli.engine.order import epoch_permutation
from biomedllama_cli.engine.tuning_rows import TuningRows
from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.packing import MOST_PARTS, Pack, lay_out
from biomedllama_cli.settings.pretrain import BatchSettings

_NAMED = 16


def order_examples(count: int, *, epochs: float, seed: int) -> npt.NDArray[np.int64]:
    """Return the examples of all epochs in the order they are trained on, int64 [positions].

    Every epoch is a permutation of its own; the last may be a part.

    Args:
        count: of the examples.
        epochs: passes over them.
        seed: of the permutations.

    Raises:
        DataError: there are no examples.

    >>> len(order_examples(10, epochs=2.5, seed=0))
    25
    """
    if not count:
        raise DataError(
            "There are no examples to train on.", hint="See what was left out, and why, in the log."
        )
    # Rounding first: 0.1 * 30 examples are 3, not the 3.0000000000000004 of binary fractions.
    positions = max(1, math.ceil(round(epochs * count, 6)))
    # Uncached: an epoch is read once here, and the cache is the pretraining order's.
    passes = [epoch_permutation.__wrapped__(count, seed, epoch) for epoch in range(-(-positions // count))]
    return np.concatenate(passes)[:positions]


class TuningData:
    """The examples of every step, laid out in rows for every rank (an `engine.loader.TrainingData`).

    Args:
        rows: the examples.
        order: numbers of the examples in the order they are trained on, int64 [positions]; an example may come often.
        batch: examples per step and rows per forward pass.
        world_size: ranks that share a step.
        packing: put several examples into one row.
        max_steps: most steps of the run; None takes the whole order.
        validator: of held-out examples, or None.
    """

    def __init__(
        self,
        rows: TuningRows,
        order: npt.NDArray[np.int64],
        *,
        batch: BatchSettings,
        world_size: int,
        packing: bool = True,
        max_steps: int | None = None,
        validator: Validates | None = None,
    ) -> None:
        self.rows, self.order, self.validator = rows, order, validator
        self._batch, self._world_size, self._packing = batch, world_size, packing
        steps = -(-len(order) // batch.global_batch_size)
        self.total_steps = steps if max_steps is None else min(steps, max_steps)
        # The loop, and the loader ahead of it, ask for the same few steps.
        self._lay_out = lru_cache(maxsize=16)(self._lay_out_step)

    @property
    def most_rows(self) -> int:
        """Return how many rows a micro-batch has at most: packed rows may be a part as long, and more of them."""
        return self._batch.micro_batch_size * (MOST_PARTS if self._packing else 1)

    def step_examples(self, step: int) -> npt.NDArray[np.int64]:
        """Return the examples of a step (counted from 1), int64 [at most global_batch_size]."""
        size = self._batch.global_batch_size
        return self.order[(step - 1) * size : step * size]

    def micro_batches(self, step: int, rank: int) -> list[MicroBatch]:
        """Return one rank's micro-batches of a step, each a list of packs; equally many on every rank."""
        return self._lay_out(step)[rank]

    def step_tokens(self, step: int) -> int:
        """Return the tokens of a step over all ranks, padding not counted."""
        return int(self.rows.lengths[self.step_examples(step)].sum())

    def step_positions(self, step: int) -> int:
        """Return the positions that all ranks compute in a step, padding counted."""
        return sum(
            len(packs) * self.rows.width(packs)
            for micro_batches in self._lay_out(step)
            for packs in micro_batches
        )

    def real_share(self, steps: int = 20) -> float:
        """Return which part of the computed positions are real tokens, in steps spread over the run (a fraction)."""
        count = min(steps, self.total_steps)
        looked_at = [1 + number * self.total_steps // count for number in range(count)]
        return sum(map(self.step_tokens, looked_at)) / sum(map(self.step_positions, looked_at))

    def name_rows(self, step: int, places: list[int]) -> str:
        """Return the examples of some rows, for a message; see `engine.loader.TrainingData`."""
        layout, at_once = self._lay_out(step), self.most_rows
        every = [packs for micro_batches in layout for packs in micro_batches]
        rows = [every[place // at_once][place % at_once :][:1] for place in places]  # none where none is
        examples = [example for row in rows for pack in row for example in pack]
        encoded = self.rows.encoded
        names = [f"{encoded.sources[example]}:{encoded.ids[example]}" for example in examples[:_NAMED]]
        return "examples " + ", ".join(names) + (", ..." if len(examples) > _NAMED else "")

    def _lay_out_step(self, step: int) -> list[list[MicroBatch]]:
        return lay_out_examples(
            self.rows,
            self.step_examples(step),
            rows_at_once=self._batch.micro_batch_size,
            ranks=self._world_size,
            packing=self._packing,
        )


def lay_out_examples(
    rows: TuningRows,
    examples: Sequence[int] | npt.NDArray[np.int64],
    *,
    rows_at_once: int,
    ranks: int,
    packing: bool,
) -> list[list[list[Pack]]]:
    """Return every rank's micro-batches of some examples, [rank][micro-batch][row] with their numbers in `rows`."""
    numbers = np.asarray(examples, dtype=np.int64)
    layout = lay_out(
        rows.lengths[numbers].tolist(),
        capacity=rows.sequence_length,
        rows_at_once=rows_at_once,
        ranks=ranks,
        packing=packing,
    )
    return [
        [[numbers[pack].tolist() for pack in packs] for packs in micro_batches] for micro_batches in layout
    ]
