"""Which sequence is trained on when: pure functions of the step, so that resuming costs nothing.

Every epoch is a permutation of what the mixture takes of each source (all sequences once, where no weight says
otherwise); the epochs stand one after the other, and step `s` takes the next `global_batch_size` positions. Neither the
number of ranks nor of loader workers changes a step's content.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from biomedllama_cli.engine.mixture import Mixture
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.settings.pretrain import BatchSettings, DurationSettings

PADDING_SEQUENCE = -1
"""Id of a row without targets; fills the last step when the epochs end inside it."""


@lru_cache(maxsize=2)  # a step touches at most two epochs; 30M sequences are 240 MB each
def epoch_permutation(sequence_count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of all sequences in one epoch, int64 [sequence_count].

    Sorting raw Philox words keeps the order the same for every numpy: the words of a bit generator are guaranteed
    stable between versions, `Generator.permutation` is not.

    >>> epoch_permutation(6, seed=0, epoch=0).tolist() == epoch_permutation(6, seed=0, epoch=1).tolist()
    False
    >>> sorted(epoch_permutation(6, seed=0, epoch=1).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    generator = np.random.Philox(key=np.array([seed % 2**64, epoch], dtype=np.uint64))
    permutation = np.argsort(generator.random_raw(sequence_count), kind="stable")
    permutation.setflags(write=False)
    return permutation


@lru_cache(maxsize=2)
def epoch_sequences(mixture: Mixture, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the ids of one epoch's sequences in the order they are trained on, int64 [epoch_length]."""
    permutation = epoch_permutation(mixture.epoch_length, seed, epoch)
    if mixture.is_plain:
        return permutation
    draws = mixture.draw(seed, epoch, epoch_permutation.__wrapped__)
    ids: npt.NDArray[np.int64] = draws[permutation]
    ids.setflags(write=False)
    return ids


@dataclass(frozen=True)
class BatchPlan:
    """How the sequences of one step are split over ranks and micro-batches.

    Attributes:
        global_batch_size: sequences of a step.
        micro_batch_size: sequences one rank forwards at once.
        world_size: ranks that have sequences of their own; those that share them count as one.
    """

    global_batch_size: int
    micro_batch_size: int
    world_size: int

    @property
    def grad_accum_steps(self) -> int:
        """Return the micro-batches one rank runs per step."""
        return self.global_batch_size // (self.micro_batch_size * self.world_size)


def build_batch_plan(settings: BatchSettings, world_size: int) -> BatchPlan:
    """Split a global batch over ranks that have sequences of their own, and over micro-batches.

    Raises:
        SettingsError: the global batch is not a multiple of micro-batch times ranks.

    >>> build_batch_plan(BatchSettings(global_batch_size=64, micro_batch_size=2), 8).grad_accum_steps
    4
    """
    unit = settings.micro_batch_size * world_size
    if settings.global_batch_size % unit:
        below = settings.global_batch_size // unit * unit
        nearest = " and ".join(str(size) for size in (below, below + unit) if size)
        values = "values of --global-batch-size are" if below else "value of --global-batch-size is"
        raise SettingsError(
            f"batch.global_batch_size = {settings.global_batch_size} must be a multiple of "
            f"batch.micro_batch_size x processes = {settings.micro_batch_size} x {world_size} = {unit}.",
            hint=f"The nearest {values} {nearest}; or lower --micro-batch-size.",
        )
    return BatchPlan(settings.global_batch_size, settings.micro_batch_size, world_size)


@dataclass(frozen=True)
class SequenceOrder:
    """The sequences of every step of a run.

    Args:
        mixture: what one epoch takes of each source.
        global_batch_size: sequences per step.
        positions: sequences in all, over all epochs (the last epoch may be a part).
        total_steps: steps of the run.
        seed: seed of the permutations.
    """

    mixture: Mixture
    global_batch_size: int
    positions: int
    total_steps: int
    seed: int

    @property
    def sequence_count(self) -> int:
        """Sequences of the corpus."""
        return self.mixture.sequence_count

    def step_sequences(self, step: int) -> npt.NDArray[np.int64]:
        """Return the sequence ids of step `step` (counted from 1), int64 [global_batch_size].

        Positions after the last epoch give `PADDING_SEQUENCE`.
        """
        first = (step - 1) * self.global_batch_size
        positions = np.arange(first, first + self.global_batch_size, dtype=np.int64)
        epochs, places = np.divmod(positions, self.mixture.epoch_length)
        ids = np.full(self.global_batch_size, PADDING_SEQUENCE, dtype=np.int64)
        inside = positions < self.positions
        for epoch in np.unique(epochs[inside]):
            chosen = inside & (epochs == epoch)
            ids[chosen] = epoch_sequences(self.mixture, self.seed, int(epoch))[places[chosen]]
        return ids


def build_sequence_order(
    mixture: Mixture, batch: BatchSettings, duration: DurationSettings, seed: int
) -> SequenceOrder:
    """Lay out a run: its steps are bounded by the epochs and by `max_steps`.

    Raises:
        DataError: the corpus has fewer sequences than one step takes.

    >>> build_sequence_order(
    ...     Mixture.of([("pmc", 100)], {}), BatchSettings(global_batch_size=8),
    ...     DurationSettings(epochs=1.5), seed=0).total_steps
    19
    """
    sequence_count = mixture.epoch_length
    if sequence_count < batch.global_batch_size:
        raise DataError(
            f"One epoch has {sequence_count} training sequences of {batch.sequence_length} tokens, fewer than "
            f"batch.global_batch_size = {batch.global_batch_size}: one step cannot be filled.",
            hint="Prepare more text, or lower --global-batch-size or --sequence-length.",
        )
    # Rounding first: 0.1 * 30 sequences are 3, not the 3.0000000000000004 of binary fractions.
    positions = max(1, math.ceil(round(duration.epochs * sequence_count, 6)))
    total_steps = math.ceil(positions / batch.global_batch_size)
    if duration.max_steps is not None:
        total_steps = min(total_steps, duration.max_steps)
    return SequenceOrder(mixture, batch.global_batch_size, positions, total_steps, seed)
