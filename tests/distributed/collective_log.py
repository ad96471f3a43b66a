"""What the ranks of a test's job send each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from biomedllama_cli.engine import step as step_module
from biomedllama_cli.engine.accelerator import set_gradient_sync

KINDS = {"allgather": "all_gather", "reduce_scatter": "reduce_scatter", "allreduce": "all_reduce"}


class CollectiveLog(TorchDispatchMode):
    """Record each collective as (phase, kind, process group, its ranks, bytes of the whole tensor)."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        self.seen: Counter[tuple[str, str, str, int, int]] = Counter()
        self.between_micro_batches: Callable[[], None] = int

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor unwraps itself and comes back with its collectives
        if func.namespace == "c10d":
            group = next(distributed.ProcessGroup.unbox(arg) for arg in args if _is_group(arg))
            self._note(func.__name__, group.group_name, group.size(), args)
        elif func.namespace == "_c10d_functional" and "all_reduce" in func.__name__:
            group = distributed.distributed_c10d._resolve_process_group(args[-1])
            self._note("allreduce", group.group_name, group.size(), args)
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, group: str, ranks: int, args: tuple[Any, ...]) -> None:
        kind = next((kind for start, kind in KINDS.items() if start in name), name.split(".")[0])
        tensors = [each for arg in args for each in (arg if isinstance(arg, list) else [arg])]
        largest = max((each.nbytes for each in tensors if isinstance(each, torch.Tensor)), default=0)
        self.seen[self.phase, kind, group, ranks, largest] += 1

    def start_step(self, step: int) -> None:
        self._step, self._micro_batch = step, -1
        self.phase = f"{step}:before"

    def watch(self, accelerator: Accelerator) -> None:
        """Learn the phase from the calls that the step makes."""
        clip = accelerator.clip_grad_norm_

        def note_micro_batch(*args, **kwargs):
            if self._micro_batch >= 0:
                self.between_micro_batches()
            self._micro_batch += 1
            self.phase = f"{self._step}:{self._micro_batch}"
            return set_gradient_sync(*args, **kwargs)

        def note_clipping(*args, **kwargs):
            self.phase = f"{self._step}:clip"
            norm = clip(*args, **kwargs)
            self.phase = f"{self._step}:after"
            return norm

        step_module.set_gradient_sync, accelerator.clip_grad_norm_ = note_micro_batch, note_clipping


def _is_group(value: object) -> bool:
    return isinstance(value, torch.ScriptObject) and "ProcessGroup" in str(value._type())
