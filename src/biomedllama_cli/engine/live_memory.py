"""Memory that tensors take while some code runs, without taking it.

Fake tensors of torch have a shape, a type and a device, and no memory. Running a training step with them dispatches
the same operators in the same order as the real step does, so their storages come and go as the real ones would:
adding up their sizes gives the real peak.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LARGE_BLOCK_BYTES = 2**25
"""From this size on glibc maps a block by itself and gives it back whole; smaller ones share a heap."""


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators make inside it, as long as each is referred to.

    Args:
        known: tensors whose storages are counted elsewhere (the weights).
        vocabulary_size: a storage of so many columns holds logits.

    Attributes:
        live_bytes: of storages made so far and not freed yet.
        peak_bytes: the most that this was.
        logits_at_peak_bytes: those of them that held logits then.
        logits_peak_bytes: the most that logits ever took.
        small_at_peak_bytes: in blocks of less than `LARGE_BLOCK_BYTES`, logits not counted, at the peak.
    """

    def __init__(self, known: Iterable[torch.Tensor], vocabulary_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self.logits_at_peak_bytes = self.logits_peak_bytes = 0
        self._live_logits_bytes = self._live_small_bytes = self.small_at_peak_bytes = 0
        self._vocabulary_size = vocabulary_size
        self._held: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
        for tensor in known:
            self._held[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note the storages it makes."""
        # What depends on values, which fake tensors lack: every place counts, and every condition holds.
        if func is torch.ops.aten.nonzero.default:
            (tensor,) = args
            made = tensor.new_empty((tensor.numel(), tensor.dim()), dtype=torch.int64)
        elif func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            made = True
        else:
            made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._hold(leaf)
        return made

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._held:
            return
        self._held[storage] = True
        size = storage.nbytes()
        logits = size if tensor.dim() and tensor.shape[-1] == self._vocabulary_size else 0
        small = size if size < LARGE_BLOCK_BYTES and not logits else 0
        weakref.finalize(storage, self._let_go, size, logits, small)
        self.live_bytes += size
        self._live_logits_bytes += logits
        self._live_small_bytes += small
        self.logits_peak_bytes = max(self.logits_peak_bytes, self._live_logits_bytes)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.logits_at_peak_bytes = self.live_bytes, self._live_logits_bytes
            self.small_at_peak_bytes = self._live_small_bytes

    def _let_go(self, size: int, logits: int, small: int) -> None:
        self.live_bytes -= size
        self._live_logits_bytes -= logits
        self._live_small_bytes -= small
