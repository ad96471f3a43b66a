"""A rank's micro-batches, read ahead by loader processes, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from biomedllama_cli.engine.order import PADDING_SEQUENCE, BatchPlan, SequenceOrder
from biomedllama_cli.engine.rows import Batch, PackedRows
from biomedllama_cli.engine.signals import keep_signals_from_loader
from biomedllama_cli.engine.validation import Validation

MicroBatch = list[Any]
"""What the rows' `__getitems__` takes for one forward pass: ids of rows, or of what is packed into each row."""


class Validates(Protocol):
    """Looks at held-out text or examples."""

    def run(self, accelerator: Accelerator, model: torch.nn.Module) -> Validation:
        """Score them; every rank must call it, and all get the same result."""
        ...


class TrainingData(Protocol):
    """The rows, and when each is trained on; everything is a function of the step, so that resuming costs nothing."""

    @property
    def rows(self) -> Dataset[Batch]:
        """Return what makes a batch of a micro-batch's ids."""
        ...

    @property
    def total_steps(self) -> int:
        """Return the steps of the run."""
        ...

    @property
    def validator(self) -> Validates | None:
        """Return who looks at what is held out, or None."""
        ...

    @property
    def most_rows(self) -> int:
        """Return how many rows a micro-batch has at most."""
        ...

    def micro_batches(self, step: int, rank: int) -> list[MicroBatch]:
        """Return one rank's micro-batches of a step (counted from 1); equally many on every rank."""
        ...

    def step_tokens(self, step: int) -> int:
        """Return the tokens of a step over all ranks, padding not counted."""
        ...

    def name_rows(self, step: int, places: list[int]) -> str:
        """Return what some rows of a step hold, for a message.

        Args:
            step: counted from 1.
            places: of the rows: (rank x micro-batches per rank + micro-batch) x most rows + row.
        """
        ...


@dataclass(frozen=True)
class RunData:
    """The rows of a corpus, and when each is trained on.

    Attributes:
        rows: training rows.
        order: the sequences of every step.
        plan: how a step is split over ranks.
        validator: of the validation split, or None without one.
    """

    rows: PackedRows
    order: SequenceOrder
    plan: BatchPlan
    validator: Validates | None

    @property
    def total_steps(self) -> int:
        """Return the steps of the run."""
        return self.order.total_steps

    @property
    def most_rows(self) -> int:
        """Return the rows of every micro-batch."""
        return self.plan.micro_batch_size

    def micro_batches(self, step: int, rank: int) -> list[MicroBatch]:
        """Return one rank's micro-batches of a step, each a list of row ids."""
        ids = self.order.step_sequences(step).reshape(self.plan.world_size, -1, self.plan.micro_batch_size)
        mine: list[MicroBatch] = ids[rank].tolist()
        return mine

    def step_tokens(self, step: int) -> int:
        """Return the tokens of a step over all ranks."""
        rows = int((self.order.step_sequences(step) != PADDING_SEQUENCE).sum())
        return rows * self.rows.sequence_length

    def name_rows(self, step: int, places: list[int]) -> str:
        """Return the ids of some rows."""
        named = self.order.step_sequences(step)[places].tolist()
        return "sequences " + ", ".join(map(str, named[:16])) + (", ..." if len(named) > 16 else "")


@dataclass(frozen=True)
class MicroBatchIds:
    """The ids of one rank's micro-batches, as the batch sampler of a DataLoader."""

    data: TrainingData
    rank: int
    start_step: int

    def __iter__(self) -> Iterator[MicroBatch]:
        """Generate the ids of one micro-batch after the other, to the last step's."""
        for step in range(self.start_step, self.data.total_steps + 1):
            yield from self.data.micro_batches(step, self.rank)


def iter_micro_batches(
    data: TrainingData, accelerator: Accelerator, start_step: int, *, rank: int, data_workers: int
) -> Iterator[Batch]:
    """Generate this rank's micro-batches from `start_step` (counted from 1) to the end.

    Args:
        data: rows and their order.
        accelerator: says where batches go.
        start_step: first step; nothing before it is read.
        rank: whose rows.
        data_workers: loader processes; their number changes nothing but the speed.
    """
    loader: DataLoader[Batch] = DataLoader(
        data.rows,
        batch_sampler=MicroBatchIds(data, rank, start_step),
        num_workers=data_workers,
        collate_fn=_keep,  # __getitems__ made the batch already
        multiprocessing_context="fork"
        if data_workers
        else None,  # maps stay maps; pickling would read them whole
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=keep_signals_from_loader,
        generator=torch.Generator(),  # its own, so that loading never moves the run's random state
    )
    return iter(loader)


def _keep(batch: Any) -> Any:
    return batch
