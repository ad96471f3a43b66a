"""One optimizer step: micro-batches forward and backward, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from biomedllama_cli.engine.accelerator import set_gradient_sync
from biomedllama_cli.engine.context_parallel import count_sharers, find_row_split
from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.engine.rows import IGNORED_LABEL, Batch
from biomedllama_cli.models.loss import token_losses


@dataclass(frozen=True)
class StepTensors:
    """What a step measured, the same on every rank.

    Attributes:
        row_losses: summed loss of every row of the step (in nats), float64 [ranks * micro-batches * rows at once];
            places without a row hold 0.
        row_targets: target tokens of each, as `row_losses`.
        grad_norm: global L2 norm before clipping.
        ranks_asked_to_stop: how many ranks got a signal.
        rank_seconds: what every rank said of its time (in seconds), float64 [world_size, kinds].
        was_accepted: whether the weights were updated.
    """

    row_losses: npt.NDArray[np.float64]
    row_targets: npt.NDArray[np.float64]
    grad_norm: float
    ranks_asked_to_stop: int
    rank_seconds: npt.NDArray[np.float64]
    was_accepted: bool = True

    @property
    def target_tokens(self) -> int:
        """Return the target tokens of the step."""
        return int(self.row_targets.sum())

    @property
    def loss(self) -> float:
        """Return the mean loss per target token (in nats); summed exactly, whatever the number of ranks."""
        return math.fsum(self.row_losses.tolist()) / max(self.target_tokens, 1)


@dataclass(frozen=True)
class StepFrame:
    """What is the same in every step.

    Attributes:
        max_grad_norm: gradients are scaled down to this.
        rows_at_once: most rows of a micro-batch.
        data_rank: which ranks' rows this rank has; ranks that share a sequence have the same.
        data_ranks: how many there are.
        accept: looks at loss and gradient norm before the update and says whether it is made; the same on every rank.
    """

    max_grad_norm: float
    rows_at_once: int
    data_rank: int
    data_ranks: int
    accept: Callable[[float, float], bool] | None = None

    @classmethod
    def plain(cls, accelerator: Accelerator, max_grad_norm: float, rows_at_once: int) -> StepFrame:
        """Return the frame of a job whose every rank has rows of its own."""
        return cls(max_grad_norm, rows_at_once, accelerator.process_index, accelerator.num_processes)


def train_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: Any,
    micro_batches: Sequence[Batch],
    frame: StepFrame,
    *,
    stop_requested: bool = False,
    seconds: Sequence[float] = (),
) -> StepTensors:
    """Train on one step's micro-batches of this rank and return what was measured over all ranks.

    Args:
        accelerator: of the job.
        model: prepared.
        optimizer: prepared.
        micro_batches: of this rank; equally many on every rank.
        frame: what is the same in every step.
        stop_requested: whether this rank got a signal.
        seconds: what this rank has to say of its time, equally many numbers on every rank.
    """
    device, world_size = accelerator.device, accelerator.num_processes
    target_tokens = torch.tensor(count_targets(micro_batches), device=device)
    if world_size > 1:
        torch.distributed.all_reduce(target_tokens)
    target_tokens //= count_sharers(model)  # ranks that share rows have counted the same
    # FSDP and DDP average gradients over all ranks, so x world_size; then once / the step's target tokens of all.
    scale = world_size / target_tokens.clamp(min=1)
    row_losses = torch.zeros(len(micro_batches), frame.rows_at_once, dtype=torch.float64, device=device)
    for number, batch in enumerate(micro_batches):
        set_gradient_sync(model, is_last_micro_batch=number == len(micro_batches) - 1)
        with accelerator.autocast():
            losses_BT = forward_losses(model, move_batch(batch, device))
        row_losses[number, : len(losses_BT)] = losses_BT.detach().double().sum(dim=1)
        accelerator.backward(losses_BT.sum() * scale)
    grad_norm = full_tensor(accelerator.clip_grad_norm_(model.parameters(), frame.max_grad_norm))
    row_targets = torch.zeros_like(row_losses, device="cpu")
    for number, batch in enumerate(micro_batches):
        row_targets[number, : len(batch["labels"])] = (batch["labels"] != IGNORED_LABEL).sum(dim=1)
    rows = torch.stack([row_losses, row_targets.to(device) / count_sharers(model)]).flatten(1)
    measured = _share(accelerator, frame, rows, float(stop_requested), seconds)
    tensors = replace(measured, grad_norm=float(grad_norm))
    if frame.accept is None or frame.accept(tensors.loss, tensors.grad_norm):
        optimizer.step()
    else:
        tensors = replace(tensors, was_accepted=False)
        if accelerator.scaler is not None:
            accelerator.scaler.update()  # ends the step that clipping has begun for it
    optimizer.zero_grad(set_to_none=True)
    return tensors


def _share(
    accelerator: Accelerator, frame: StepFrame, rows: torch.Tensor, stop: float, seconds: Sequence[float]
) -> StepTensors:
    """Sum over all ranks, once: each rank's rows and seconds in a place of their own, and the stop requests.

    Args:
        accelerator: of the job.
        frame: says where this rank's rows belong.
        rows: losses and targets of this rank, float64 [2, rows].
        stop: 1 where this rank got a signal.
        seconds: of this rank.
    """
    world_size, count = accelerator.num_processes, rows.shape[1]
    whole = torch.zeros(2, frame.data_ranks, count, dtype=torch.float64, device=rows.device)
    whole[:, frame.data_rank] = rows
    own = torch.zeros(world_size, len(seconds), dtype=torch.float64, device=rows.device)
    own[accelerator.process_index] = torch.tensor(seconds, dtype=torch.float64)
    measured = torch.cat([whole.flatten(), own.flatten(), rows.new_tensor([stop])])
    if world_size > 1:
        torch.distributed.all_reduce(measured)
    numbers = measured.cpu().numpy()  # waits for the device
    every = numbers[: whole.numel()].reshape(2, -1)
    shared = numbers[whole.numel() : -1].reshape(world_size, len(seconds))
    return StepTensors(every[0], every[1], 0.0, round(numbers[-1]), shared)


def describe_step(step: int, measured: StepTensors, seconds: float) -> StepFacts:
    """Return what onlookers are told of a step."""
    return StepFacts(
        step=step,
        loss=measured.loss,
        grad_norm=measured.grad_norm,
        row_losses=measured.row_losses,
        row_targets=measured.row_targets,
        rank_seconds=measured.rank_seconds,
        was_accepted=measured.was_accepted,
        seconds=seconds,
    )


def forward_losses(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of every token of one micro-batch (in nats, fp32 [rows, tokens]).

    Where ranks share rows each returns those of its part in their places, and 0 elsewhere: the sum over ranks is whole.
    """
    split = find_row_split(model)
    if split is not None:
        return split.find_losses(model, batch)
    return token_losses(model, batch["input_ids"], batch["labels"], batch["position_ids"])


def count_targets(batches: Sequence[Batch]) -> int:
    """Return the target tokens of batches that are still on the host."""
    return sum(int((batch["labels"] != IGNORED_LABEL).sum()) for batch in batches)


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device; from pinned memory without waiting."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def full_tensor(value: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor for a sharded one (a collective: every rank must call it)."""
    return value.full_tensor() if isinstance(value, DTensor) else value
