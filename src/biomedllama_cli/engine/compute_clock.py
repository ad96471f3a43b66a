"""How long a rank computes, without its waits for other ranks: what a straggler is told by."""

from __future__ import annotations

import time
from typing import Any

import torch

_LAYERS = 4
"""Decoder layers that are timed, spread over the model; all ranks time the same."""


class ComputeClock:
    """Times the forward passes of some decoder layers of this rank.

    FSDP gathers a layer's parameters before its forward pass and frees them after it, in hooks of its own. The hooks
    here are inside of those: what lies between them is computed by this rank alone. On CUDA events mark both places in
    the stream, and nobody waits for them.

    Args:
        model: prepared, so that FSDP's hooks are there.
        device: it is computed on.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._began: dict[torch.nn.Module, Any] = {}
        self._pairs: list[tuple[Any, Any]] = []
        self._seconds = 0.0
        for layer in choose_layers(model):
            layer.register_forward_pre_hook(self._begin)
            layer.register_forward_hook(self._end, prepend=True)

    def read(self) -> float:
        """Return the seconds since the last reading; on CUDA the step they were in must be over."""
        on_device: float = sum(first.elapsed_time(last) for first, last in self._pairs)  # in milliseconds
        seconds = self._seconds + on_device / 1000
        self._seconds, self._pairs = 0.0, []
        return seconds

    def _mark(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _begin(self, layer: torch.nn.Module, _: Any) -> None:
        if layer.training:  # not a look at held-out text
            self._began[layer] = self._mark()

    def _end(self, layer: torch.nn.Module, *_: Any) -> None:
        began = self._began.pop(layer, None)
        if began is None:
            return
        if self._on_cuda:
            self._pairs.append((began, self._mark()))
        else:
            self._seconds += self._mark() - began


def choose_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return some decoder layers, spread over the model."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    layers = [
        module for module in model.modules() if any(kind.__name__ in names for kind in type(module).__mro__)
    ]
    count = min(_LAYERS, len(layers))
    return [layers[number * len(layers) // count] for number in range(count)]
