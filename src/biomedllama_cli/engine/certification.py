"""Whether every sequence of every epoch was trained on exactly once: what was fed against what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from biomedllama_cli.engine.order import PADDING_SEQUENCE, SequenceOrder, epoch_sequences
from biomedllama_cli.engine.sequence_frames import FedStep

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochFinding:
    """What one epoch was fed.

    Attributes:
        epoch: counted from 1.
        due: sequences that the steps so far should have taken of it, repeated ones of a weighted source counted.
        is_whole: whether that is all of the epoch.
        fed: sequences that they were fed.
        missing: ids that were fed less often than they should.
        repeated: ids that were fed more often.
    """

    epoch: int
    due: int
    is_whole: bool
    fed: int
    missing: Ids
    repeated: Ids


def check_epochs(order: SequenceOrder, steps: Mapping[int, FedStep], through: int) -> Iterator[EpochFinding]:
    """Generate what every epoch was fed, up to a step.

    A whole epoch is held against the sequences there are, each of them once (or as often as its source's weight says);
    one that is not over, against what the steps so far should have taken.

    Args:
        order: of the run.
        steps: what each was fed.
        through: last step that is looked at.
    """
    length, count = order.mixture.epoch_length, order.sequence_count
    end = min(through * order.global_batch_size, order.positions)
    for epoch in range(-(-end // length)):
        first, stop = epoch * length, min((epoch + 1) * length, end)
        fed = _gather(order, steps, first, stop)
        known = fed[(fed >= 0) & (fed < count)]
        is_whole = stop - first == length
        wanted = _count_wanted(order, epoch, stop - first, is_whole=is_whole)
        found = np.bincount(known, minlength=count)
        yield EpochFinding(
            epoch=epoch + 1,
            due=stop - first,
            is_whole=is_whole,
            fed=int((fed != PADDING_SEQUENCE).sum()),
            missing=np.flatnonzero(found < wanted),
            repeated=np.flatnonzero(found > wanted),
        )


def _count_wanted(order: SequenceOrder, epoch: int, taken: int, *, is_whole: bool) -> Ids:
    """Return how often each sequence should have been fed, int64 [sequence_count]."""
    if is_whole and order.mixture.is_plain:
        return np.ones(order.sequence_count, np.int64)
    ids = epoch_sequences(order.mixture, order.seed, epoch)[:taken]
    return np.bincount(ids, minlength=order.sequence_count)


def _gather(order: SequenceOrder, steps: Mapping[int, FedStep], first: int, stop: int) -> Ids:
    """Return what the positions of one epoch were fed; a step that is not there, and a padded row, give -1."""
    size = order.global_batch_size
    parts = []
    for step in range(first // size + 1, -(-stop // size) + 1):
        offset = (step - 1) * size
        ids = read_ids(steps.get(step), size)
        parts.append(ids[max(first - offset, 0) : min(stop - offset, size)])
    return np.concatenate(parts)


def read_ids(fed: FedStep | None, size: int) -> Ids:
    """Return the ids of a step, int64 [size]; rows that are not there are -1.

    A step that was fed more rows than it has places keeps the first: `find_other_steps` names it.
    """
    ids = np.full(size, PADDING_SEQUENCE, np.int64)
    if fed is not None:
        found = fed.ids[:size]
        ids[: len(found)] = found
    return ids


def find_missing_steps(steps: Mapping[int, FedStep], through: int) -> list[int]:
    """Return the steps up to `through` of which nothing is known."""
    return [step for step in range(1, through + 1) if step not in steps]


def find_other_steps(order: SequenceOrder, steps: Mapping[int, FedStep], through: int) -> list[int]:
    """Return the steps that were fed other sequences, or the same in other places, than the order of the run gives."""
    return [
        step
        for step in range(1, through + 1)
        if step in steps and not np.array_equal(steps[step].ids, order.step_sequences(step))
    ]
