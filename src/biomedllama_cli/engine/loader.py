"""A rank's micro-batches, read ahead by loader processes, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from biomedllama_cli.engine.order import BatchPlan, SequenceOrder
from biomedllama_cli.engine.rows import Batch, PackedRows
from biomedllama_cli.engine.signals import keep_signals_from_loader
from biomedllama_cli.engine.validation import Validator


@dataclass(frozen=True)
class RunData:
    """The rows, and when each is trained on.

    Attributes:
        rows: training rows.
        order: the sequences of every step.
        plan: how a step is split over ranks.
        validator: of the validation split, or None without one.
    """

    rows: PackedRows
    order: SequenceOrder
    plan: BatchPlan
    validator: Validator | None


@dataclass(frozen=True)
class MicroBatchIds:
    """The ids of one rank's micro-batches, as the batch sampler of a DataLoader."""

    data: RunData
    rank: int
    start_step: int

    def __iter__(self) -> Iterator[list[int]]:
        """Generate one list of ids per micro-batch."""
        return self.data.order.iter_micro_batches(self.data.plan, self.rank, self.start_step)


def iter_micro_batches(
    data: RunData, accelerator: Accelerator, start_step: int, *, data_workers: int
) -> Iterator[Batch]:
    """Generate this rank's micro-batches from `start_step` (counted from 1) to the end.

    Args:
        data: rows and their order.
        accelerator: says which rank this is.
        start_step: first step; nothing before it is read.
        data_workers: loader processes; their number changes nothing but the speed.
    """
    loader: DataLoader[Batch] = DataLoader(
        data.rows,
        batch_sampler=MicroBatchIds(data, accelerator.process_index, start_step),
        num_workers=data_workers,
        collate_fn=_keep,  # PackedRows.__getitems__ made the batch already
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
