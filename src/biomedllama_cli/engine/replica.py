"""A whole copy of the model on every rank (`--sharding replicate`): torch's DistributedDataParallel, unseen.

The model stays what it was: its class, the names of its parameters (plain tensors), its methods. Saving, validation and
adapters need not know that there are copies. A call of the model goes through DDP to the forward that it had.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


class _Inside(torch.nn.Module):
    """The model as DDP sees it: its forward without the way through DDP, its hooks not called twice."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._forward_of_one = model.forward
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward_of_one(*args, **kwargs)


class _Way:
    """The forward of a model that has copies."""

    def __init__(self, model: torch.nn.Module) -> None:
        on_cuda = next(model.parameters()).device.type == "cuda"
        # Buffers are equal everywhere and stay so: no forward need send them. torch has renamed the option.
        names = inspect.signature(DistributedDataParallel).parameters
        sends_buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {sends_buffers: False}
        self.copies = DistributedDataParallel(
            _Inside(model),
            device_ids=[torch.cuda.current_device()] if on_cuda else None,
            gradient_as_bucket_view=True,  # else gradients are held twice
            **options,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.copies(*args, **kwargs)


def replicate(model: torch.nn.Module) -> None:
    """Let every rank have a copy of a model that is on its device; rank 0's weights are sent to all.

    Every rank must call it. Afterwards gradients are averaged over all ranks, in the backward pass of each micro-batch
    that `sync_replicas` does not spare.
    """
    model.forward = _Way(model)  # not a module: it would be a part of the model, which is a part of it


def sync_replicas(model: torch.nn.Module, *, is_wanted: bool) -> None:
    """Say before a forward whether its backward pass averages gradients over the copies, where there are any."""
    if isinstance(model.forward, _Way):
        model.forward.copies.require_backward_grad_sync = is_wanted
