"""Decoder layers through torch.compile, one by one, under the hooks, the sharding and the names that they have.

What is compiled is a layer's forward, not the module: no name gets a prefix, hooks stay outside (FSDP's, which gather
and free the weights; the clock's), and activation checkpointing runs a compiled forward again. All layers share one
compiled function, so that the layers after the first cost no compilation.

Attention that is told of documents by a list of lengths stays out of what is compiled: torch would compile a layer for
every list anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial
from types import MethodType
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from biomedllama_cli.engine.fsdp_groups import find_decoder_layer_names
from biomedllama_cli.errors import ModelError, UnavailableError

_MOST_VARIANTS = 16
"""Variants of a layer that may be compiled: training or not, masks or none, one length of rows or any."""


def compile_layers(model: PreTrainedModel, device: torch.device) -> None:
    """Compile every decoder layer's forward when it is first called; call it before the model is wrapped.

    Raises:
        UnavailableError: nothing can be compiled for this device here.
        ModelError: the model does not say which of its modules is a decoder layer.
    """
    obstacle = find_compile_obstacle(device.type)
    if obstacle is not None:
        raise UnavailableError(
            f"compile: torch.compile cannot be used for {device.type} here: {obstacle}.",
            hint="Install a C++ compiler (`apt install g++`) for the CPU, Triton for CUDA; or leave --compile out.",
        )
    try:
        names = find_decoder_layer_names(model)
    except ModelError as error:
        raise ModelError(
            f"{type(model).__name__} does not declare its decoder layers, so they cannot be compiled.",
            "Leave --compile out.",
        ) from error
    _leave_attention_out(model)
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _MOST_VARIANTS)
    for layer in model.modules():
        if type(layer).__name__ in names:
            # A method and no closure, because models are copied.
            layer.forward = MethodType(_forward, layer)


@cache
def find_compile_obstacle(device_type: str) -> str | None:
    """Return why nothing can be compiled for a kind of device, or None when it can; a sum is compiled to see."""
    try:
        with torch.enable_grad():
            numbers = torch.ones(8, device=device_type, requires_grad=True)
            torch.autograd.backward(torch.compile(_try)(numbers))
    except Exception as error:  # compilers fail in ways of their own
        return _shorten(error)
    return None


def _try(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers.sin() * numbers).sum()


def _shorten(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".:")


def _leave_attention_out(model: PreTrainedModel) -> None:
    """Keep the compiler from looking into attention functions of ours; they are a few operators each."""
    name = model.config.get_text_config(decoder=True)._attn_implementation
    function = AttentionInterface().get(name)
    if function is not None and function.__module__.startswith(__package__.partition(".")[0]):
        AttentionInterface.register(name, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Take the place of a decoder layer's forward."""
    wrapped = type(self).forward
    compiled = _compile(inspect.unwrap(wrapped))
    # What transformers wraps around a forward for activation checkpointing is done here, around what is compiled.
    if hasattr(wrapped, "__wrapped__") and self.training and getattr(self, "gradient_checkpointing", False):
        return self._gradient_checkpointing_func(partial(compiled, self, **kwargs), *args)
    return compiled(self, *args, **kwargs)


@cache
def _compile(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(forward)
    return compiled
