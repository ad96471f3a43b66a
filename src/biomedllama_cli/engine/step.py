"""One optimizer step: micro-batches forward and backward, clipping, update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from biomedllama_cli.engine.accelerator import set_gradient_sync
from biomedllama_cli.engine.rows import IGNORED_LABEL, Batch
from biomedllama_cli.models.loss import summed_cross_entropy


@dataclass(frozen=True)
class StepTensors:
    """What a step measured, still on the device: reading it waits for the device.

    Attributes:
        losses: summed loss of every micro-batch of every rank, float64 [world_size * grad_accum_steps], in the
            order of the step's sequences.
        target_tokens: over all ranks, int64 scalar.
        grad_norm: global L2 norm before clipping, scalar.
        ranks_asked_to_stop: how many ranks got a signal, float64 scalar.
    """

    losses: torch.Tensor
    target_tokens: torch.Tensor
    grad_norm: torch.Tensor
    ranks_asked_to_stop: torch.Tensor


def train_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: Any,
    micro_batches: Sequence[Batch],
    *,
    max_grad_norm: float,
    stop_requested: bool = False,
) -> StepTensors:
    """Train on one step's micro-batches of this rank and return what was measured, summed over all ranks."""
    device, world_size = accelerator.device, accelerator.num_processes
    target_tokens = torch.tensor(count_targets(micro_batches), device=device)
    if world_size > 1:
        torch.distributed.all_reduce(target_tokens)
    # FSDP averages gradients over all ranks, so x world_size; then once / the step's target tokens over all ranks.
    scale = world_size / target_tokens.clamp(min=1)
    losses = []
    for number, batch in enumerate(micro_batches, start=1):
        set_gradient_sync(model, is_last_micro_batch=number == len(micro_batches))
        with accelerator.autocast():
            loss_sum = forward_loss(model, move_batch(batch, device))
        accelerator.backward(loss_sum * scale)
        losses.append(loss_sum.detach())
    grad_norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    # One small sum over ranks carries every micro-batch's loss, each in its own place, and the stop requests.
    measured = torch.zeros(world_size * len(losses) + 1, dtype=torch.float64, device=device)
    first = accelerator.process_index * len(losses)
    measured[first : first + len(losses)] = torch.stack(losses)
    measured[-1] = float(stop_requested)
    if world_size > 1:
        torch.distributed.all_reduce(measured)
    return StepTensors(measured[:-1], target_tokens, full_tensor(grad_norm), measured[-1])


def forward_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the summed loss of one micro-batch (in nats, fp32 scalar)."""
    loss_sum, _ = summed_cross_entropy(model, batch["input_ids"], batch["labels"], batch["position_ids"])
    return loss_sum


def count_targets(batches: Sequence[Batch]) -> int:
    """Return the target tokens of batches that are still on the host."""
    return sum(int((batch["labels"] != IGNORED_LABEL).sum()) for batch in batches)


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device; from pinned memory without waiting."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def full_tensor(value: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor for a sharded one (a collective: every rank must call it)."""
    return value.full_tensor() if isinstance(value, DTensor) else value
