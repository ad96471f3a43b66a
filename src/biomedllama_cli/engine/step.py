"""One optimizer step: micro-batches forward and backward, clipping, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from biomedllama_cli.engine.accelerator import set_gradient_sync
from biomedllama_cli.engine.context_parallel import count_sharers, find_row_split
from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.engine.rows import IGNORED_LABEL, Batch
from biomedllama_cli.models.loss import token_losses


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
) -> StepFacts:
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
    rows = _describe_rows(micro_batches, row_losses)
    facts = _share(accelerator, frame, rows, (grad_norm, float(stop_requested)), seconds)
    if frame.accept is None or frame.accept(facts.loss, facts.grad_norm):
        optimizer.step()
        # In fp16 the loss scaling leaves out an update whose gradient overflowed.
        was_accepted = accelerator.scaler is None or not accelerator.optimizer_step_was_skipped
    else:
        was_accepted = False
        if accelerator.scaler is not None:
            accelerator.scaler.update()  # ends the step that clipping has begun for it
    optimizer.zero_grad(set_to_none=True)
    return replace(facts, was_accepted=was_accepted)


def _describe_rows(micro_batches: Sequence[Batch], row_losses: torch.Tensor) -> torch.Tensor:
    """Return losses, targets, ids + 1 and checksums of this rank's rows, float64 [4, rows]; exact below 2**53.

    Args:
        micro_batches: as the loader gave them.
        row_losses: float64 [micro-batches, rows at once].
    """
    facts = torch.zeros(3, *row_losses.shape, dtype=torch.float64)
    for number, batch in enumerate(micro_batches):
        count = len(batch["labels"])
        facts[0, number, :count] = (batch["labels"] != IGNORED_LABEL).sum(dim=1)
        if "row_ids" in batch:
            facts[1, number, :count] = batch["row_ids"].double() + 1
            facts[2, number, :count] = batch["row_checks"].double()
    return torch.cat([row_losses[None], facts.to(row_losses.device)]).flatten(1)


def _share(
    accelerator: Accelerator,
    frame: StepFrame,
    rows: torch.Tensor,
    others: tuple[torch.Tensor, float],
    seconds: Sequence[float],
) -> StepFacts:
    """Sum over all ranks, once: each rank's rows and seconds in a place of their own, and the stop requests.

    Args:
        accelerator: of the job.
        frame: says where this rank's rows belong.
        rows: of this rank, see `_describe_rows`.
        others: gradient norm, of which that of rank 0 counts, so that all ranks decide alike; 1 where this rank got a
            signal.
        seconds: of this rank.
    """
    world_size, rank = accelerator.num_processes, accelerator.process_index
    whole = rows.new_zeros(len(rows), frame.data_ranks, rows.shape[1])
    whole[:, frame.data_rank] = rows
    own = rows.new_zeros(world_size, len(seconds))
    own[rank] = torch.tensor(seconds, dtype=torch.float64)
    grad_norm, stop = others
    measured = torch.cat(
        [whole.flatten(), own.flatten(), rows.new_tensor([stop, 0.0 if rank else grad_norm])]
    )
    if world_size > 1:
        torch.distributed.all_reduce(measured)
    numbers = measured.cpu().numpy()  # waits for the device
    losses, targets, ids, checks = numbers[: whole.numel()].reshape(len(rows), -1)
    # Ranks that share rows have said the same of them; only losses are of a part. Divided once summed: that is exact.
    sharers = world_size // frame.data_ranks
    assert not (ids % sharers).any(), "ranks that share rows were given different ones"
    return StepFacts(
        row_losses=losses,
        row_targets=targets / sharers,
        grad_norm=float(numbers[-1]),
        ranks_asked_to_stop=round(numbers[-2]),
        rank_seconds=numbers[whole.numel() : -2].reshape(world_size, len(seconds)),
        row_ids=(ids // sharers).astype(np.int64) - 1,
        row_checks=(checks // sharers).astype(np.int64),
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
