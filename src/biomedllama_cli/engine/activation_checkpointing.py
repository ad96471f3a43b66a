"""Activations computed again in the backward pass instead of kept: whole layers, or all but their costly products.

What `selective` keeps of a layer, by arithmetic. Keeping the output of a product [tokens, in] x [in, out] in two bytes
saves 2 x in x out operations a token for 2 x out bytes: `in` operations per byte, the same for all products of a layer
that read the hidden state. So there is no cheaper half of them (torchtitan keeps every second), only a point on a line;
all of them are kept, so that no product is made twice. A layer of LLaMA's shape keeps its input, queries, keys, values,
mixed values, their projection, gate and up projection, about 23 bytes per token and hidden unit in bf16, instead of
about 46; norms, rotations and the gate's product are made again. The last product of a layer is not kept: nothing of
the layer's own backward pass reads it, and recomputation ends before it.

Collectives inside a layer (keys of other parts of a row) are made again, in the order of the forward pass and on every
rank that shares the row: the ranks have the same operators, so they meet in the same order, as with `full`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from biomedllama_cli.engine.host_memory import map_large_blocks_apart
from biomedllama_cli.errors import ModelError

_PRODUCTS = {"mm", "addmm", "_scaled_mm", "_grouped_mm"}
_BATCHED_PRODUCTS = {"bmm", "baddbmm"}
_ATTENTION = ("attention", "attn", "flash", "fmha")
"""Parts of the names of fused attention operators: torch's two, flex, flash-attention's and xformers'."""


def save_activations(model: PreTrainedModel, mode: str, device: torch.device) -> None:
    """Recompute activations in the backward pass as `mode` says, and keep the process small where it is on a CPU.

    Args:
        model: not wrapped yet.
        mode: none, selective or full.
        device: the model will compute on.

    Raises:
        ModelError: the model's code has no place for it.
    """
    if mode == "none":
        return
    recompute_layers(model, mode)
    if device.type == "cpu":
        map_large_blocks_apart()


def recompute_layers(model: PreTrainedModel, mode: str) -> None:
    """Make every decoder layer compute again what `mode` (selective or full) does not keep.

    Raises:
        ModelError: the model's code has no place for it.
    """
    contexts = SelectiveContexts() if mode == "selective" else _make_plain_contexts
    options = {"use_reentrant": False, "context_fn": contexts}
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    except ValueError as error:
        raise ModelError(
            f"model: {type(model).__name__} cannot compute activations again in the backward pass: "
            f"{' '.join(str(error).split())[:160]}",
            hint="Leave --activation-checkpointing out, or use a smaller --micro-batch-size.",
        ) from error


def _make_plain_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the forward pass and of the recomputation of one call of a layer that keeps its input."""
    return _cast_alike(nullcontext()), nullcontext()


class SelectiveContexts:
    """Makes the two contexts in which torch runs a layer: first to keep costly outputs, then to use them."""

    def __init__(self) -> None:
        self._products = 0

    def __call__(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Return the contexts of the forward pass and of the recomputation of one call of a layer."""
        chooser = _Chooser(self._products)
        keep, reuse = create_selective_checkpoint_contexts(chooser.choose)  # type: ignore[no-untyped-call]
        return self._watch(chooser, keep), _cast_alike(reuse)

    @contextmanager
    def _watch(self, chooser: _Chooser, keep: AbstractContextManager[Any]) -> Iterator[None]:
        with _cast_alike(keep):
            yield
        # The next layer has as many products; where it has not, it keeps one too many, or makes one again.
        self._products = chooser.products


class _Chooser:
    """Decides of each operator of one call of a layer.

    Args:
        expected: products that the call will make, 0 where that is not known yet.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.products = 0

    def choose(self, context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        """Say whether an operator's output is kept."""
        name = operator.name().rpartition("::")[2].partition(".")[0]
        if name in _PRODUCTS:
            self.products += 1
            return _keep(self.products != self._expected)
        if name in _BATCHED_PRODUCTS:
            # Values mixed by scores are small, the scores themselves are not: what grows is made again.
            sizes = [arg.numel() for arg in args if isinstance(arg, torch.Tensor)]
            return _keep(context.op_output.numel() <= sum(sizes))
        return _keep(any(part in name for part in _ATTENTION))


def _keep(is_kept: bool) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _cast_alike(mode: AbstractContextManager[Any]) -> Iterator[None]:
    """Run a mode with casts of weights made where they are used.

    Autocast remembers casts until its block ends, which the recomputation is not part of: a weight that is used twice
    would be cast once, then twice, and the operators would not match. Forgotten at once they take no memory either:
    remembered, the casts of all layers are there together at the end of the forward pass, 2 bytes a parameter.
    """
    with ExitStack() as stack:
        for device_type in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device_type):
                dtype = torch.get_autocast_dtype(device_type)
                stack.enter_context(torch.autocast(device_type, dtype, cache_enabled=False))
        stack.enter_context(mode)
        yield
