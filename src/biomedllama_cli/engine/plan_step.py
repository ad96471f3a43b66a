"""How much memory the forward and backward passes of a step take, found by a rehearsal without memory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from biomedllama_cli.engine.live_memory import LARGE_BLOCK_BYTES, LiveMemory
from biomedllama_cli.models.loss import enable_token_losses

_LAYERS = (6, 8)
"""Depths rehearsed; every further layer adds what the last two added."""
_EXACT_DEPTH = 12
_FP32_BYTES = 4


@dataclass(frozen=True)
class Rehearsal:
    """A step to rehearse.

    Attributes:
        micro_batch_size: sequences forwarded at once.
        sequence_length: tokens of each on this rank.
        precision: bf16, fp16 or fp32.
        attention: eager, which keeps all scores, or any other, which keeps none.
        sharded: whether FSDP holds the weights: gathered in the precision of the pass, gradients leave at once.
        accumulates: whether gradients of an earlier micro-batch are there already.
        loss_memory: fused, chunks, or plain, which keeps the logits of all tokens.
    """

    micro_batch_size: int
    sequence_length: int
    precision: str
    attention: str = "sdpa"
    sharded: bool = False
    accumulates: bool = True
    loss_memory: str = "fused"


@dataclass(frozen=True)
class StepMemory:
    """What a step takes beside weights, gradients and optimizer states.

    Attributes:
        activations: at the peak, logits not counted (in bytes).
        logits: at the same moment (in bytes); 0 where the peak is inside a layer.
        logits_peak: the most that logits take at any moment (in bytes).
        small: those of the activations that are in small blocks (in bytes).
    """

    activations: int
    logits: int
    logits_peak: int
    small: int = 0

    @property
    def total(self) -> int:
        """Return what has to be there at once (in bytes)."""
        return self.activations + self.logits


ActivationSaving = Callable[[PreTrainedModel], None]
"""Makes a model compute some activations again instead of keeping them."""


def rehearse_step(
    config: Any, rehearsal: Rehearsal, save_activations: ActivationSaving | None = None
) -> StepMemory:
    """Return the memory of a step of the model a configuration describes; takes none itself, needs no weights.

    Args:
        config: of the text model.
        rehearsal: the step.
        save_activations: what activation checkpointing does to the model, or None.
    """
    depth: int = config.num_hidden_layers
    if depth <= _EXACT_DEPTH or not (rehearsal.accumulates or rehearsal.sharded):
        return _rehearse(config, rehearsal, save_activations)
    low, high = (_rehearse(_cut(config, layers), rehearsal, save_activations) for layers in _LAYERS)

    def extend(of_low: int, of_high: int) -> int:
        return of_high + (of_high - of_low) * (depth - _LAYERS[1]) // (_LAYERS[1] - _LAYERS[0])

    return replace(
        high,
        activations=extend(low.activations, high.activations),
        small=extend(low.small, high.small),
    )


def _cut(config: Any, layers: int) -> Any:
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = layers
    if getattr(cut, "layer_types", None):
        cut.layer_types = cut.layer_types[:layers]
    return cut


def _rehearse(config: Any, rehearsal: Rehearsal, save_activations: ActivationSaving | None) -> StepMemory:
    half = rehearsal.precision != "fp32"
    # fp16 takes what bf16 takes; on the CPU that these tensors pretend to be on, autocast knows bf16 everywhere.
    dtype = torch.bfloat16 if half and rehearsal.sharded else torch.float32
    attention = "eager" if rehearsal.attention == "eager" else "sdpa"
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        model.train()
        if save_activations is not None:
            save_activations(model)
        enable_token_losses(model, rehearsal.loss_memory)
        parameters = list(model.parameters())
        if rehearsal.sharded:
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        ids = torch.zeros(rehearsal.micro_batch_size, rehearsal.sequence_length, dtype=torch.long)
        memory = LiveMemory([*parameters, *model.buffers()], config.vocab_size)
        with memory:
            for _ in range(2 if rehearsal.accumulates else 1):
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    losses_BT = model(input_ids=ids, target_ids_BT=ids, use_cache=False)
                losses_BT.sum().backward()
                del losses_BT
    sizes = [] if rehearsal.sharded else [_FP32_BYTES * parameter.numel() for parameter in parameters]
    gradients = sum(sizes)
    beside = max(memory.peak_bytes - gradients, 0)
    logits = min(memory.logits_at_peak_bytes, beside)
    small = memory.small_at_peak_bytes - sum(size for size in sizes if size < LARGE_BLOCK_BYTES)
    activations = beside - logits
    return StepMemory(activations, logits, memory.logits_peak_bytes, min(max(small, 0), activations))


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None
