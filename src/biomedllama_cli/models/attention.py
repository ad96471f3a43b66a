"""xformers' memory-efficient attention for transformers models, with documents kept apart by its own bias.

transformers asks a registered mask function for one mask per forward and kind of layer (full, sliding), and hands
whatever it returns to every layer's attention function. Here that is xformers' block-diagonal causal bias: a list
of document lengths instead of a T x T tensor, built once per forward.

Letters: B sequences, T tokens, M = B x T, H query heads, K head size.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from biomedllama_cli.errors import UnavailableError

logger = logging.getLogger(__name__)


def resolve_attention(requested: str, device: torch.device | str, dtype: torch.dtype = torch.float16) -> str:
    """Return the attention implementation to load a model with: `xformers`, `sdpa` or `eager`.

    `auto` takes xformers where the device is a CUDA one and its operator runs there, else sdpa.

    Args:
        requested: `auto` or one of the three.
        device: the model computes on.
        dtype: attention computes in; a device may lack the operator in some of them.

    Raises:
        UnavailableError: xformers was asked for and cannot run on this device.
    """
    if requested not in ("auto", "xformers"):
        return requested
    obstacle = find_xformers_obstacle(torch.device(device).type, dtype)
    if obstacle is None:
        return "xformers"
    if requested == "xformers":
        raise UnavailableError(
            f"attention: xformers cannot be used: {obstacle}.",
            hint="Install it on a CUDA machine with `pip install 'biomedllama-cli[gpu]'`, or use --attention auto.",
        )
    _tell_sdpa(obstacle, torch.device(device).type)
    return "sdpa"


@cache
def _tell_sdpa(obstacle: str, device_type: str) -> None:
    """Say once per process, not of each model, why attention is sdpa; where no xformers could run it is no news."""
    level = logging.INFO if device_type == "cuda" else logging.DEBUG
    logger.log(level, "attention: sdpa (xformers cannot be used: %s)", obstacle)


@cache
def find_xformers_obstacle(device_type: str, dtype: torch.dtype = torch.float16) -> str | None:
    """Return why xformers' operator cannot train in `dtype` on this kind of device, or None when it can.

    The operator is run once, forward and backward, because its wheels fit few pairs of torch and CUDA versions.
    """
    if device_type != "cuda" or not torch.cuda.is_available():
        return f"its operator needs CUDA, and the device is {device_type}"
    try:
        query = torch.ones(1, 8, 1, 32, device="cuda", dtype=dtype, requires_grad=True)
        mixed = _attend(query, query, query, build_document_bias([3, 5], query.device))
        torch.autograd.backward(mixed.sum())
    except (ImportError, NotImplementedError, RuntimeError, AttributeError, OSError) as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None


def register_xformers() -> None:
    """Make `attn_implementation="xformers"` known to transformers; harmless when repeated."""
    AttentionInterface.register("xformers", xformers_attention)
    AttentionMaskInterface.register("xformers", xformers_mask)


def build_document_bias(lengths: list[int], device: torch.device, window: int | None = None) -> Any:
    """Build xformers' causal bias for documents of these lengths laid end to end.

    Args:
        lengths: tokens per document.
        device: of the bias.
        window: tokens that a query sees, itself included; None for all before it.
    """
    bias = _import_xformers().fmha.attn_bias.BlockDiagonalCausalMask.from_seqlens(lengths, device=device)
    if window is not None and window < max(lengths):
        return bias.make_local_attention(window)
    return bias


def xformers_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    **kwargs: Any,
) -> Any:
    """Return xformers' bias for a packed or plain causal forward, else the mask that SDPA would get.

    transformers calls this; the parameters are those of its `sdpa_mask`. A padding mask, a key-value cache or an
    overlay that is not causal within documents makes a dense mask (evaluation and generation, not training).
    """
    lengths = find_document_lengths(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)
    if lengths is None:
        return sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)
    return build_document_bias(lengths, torch.device(kwargs["device"]), kwargs.get("local_size"))


def xformers_attention(
    module: torch.nn.Module,
    query_BHTK: torch.Tensor,
    key_BGTK: torch.Tensor,
    value_BGTK: torch.Tensor,
    attention_mask: Any,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with xformers where the mask is its bias; with SDPA where it is a tensor or nothing.

    Returns:
        The mixed values (B, T, H, K), and None in place of the attention weights.
    """
    if attention_mask is None or isinstance(attention_mask, torch.Tensor):
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module,
            query_BHTK,
            key_BGTK,
            value_BGTK,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **kwargs,
        )
        return result
    batch, heads, length, _ = query_BHTK.shape
    groups = heads // key_BGTK.shape[1]
    if groups > 1:
        # The operator's own grouped form has no backward pass.
        key_BGTK = key_BGTK.repeat_interleave(groups, dim=1)
        value_BGTK = value_BGTK.repeat_interleave(groups, dim=1)
    dtype = value_BGTK.dtype
    if torch.is_autocast_enabled(query_BHTK.device.type):
        # Rotary embeddings leave queries and keys in fp32 under autocast; SDPA is cast by it, this operator is not.
        dtype = torch.get_autocast_dtype(query_BHTK.device.type)

    def flatten(tensor_BHTK: torch.Tensor) -> torch.Tensor:
        return tensor_BHTK.to(dtype).transpose(1, 2).reshape(1, batch * length, heads, tensor_BHTK.shape[-1])

    mixed_1MHK = _attend(
        flatten(query_BHTK),
        flatten(key_BGTK),
        flatten(value_BGTK),
        attention_mask,
        dropout=dropout,
        scale=scaling,
    )
    return mixed_1MHK.reshape(batch, length, heads, -1), None


def _attend(
    query_1MHK: torch.Tensor,
    key_1MHK: torch.Tensor,
    value_1MHK: torch.Tensor,
    bias: Any,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    mixed: torch.Tensor = _import_xformers().memory_efficient_attention(
        query_1MHK, key_1MHK, value_1MHK, attn_bias=bias, p=dropout, scale=scale
    )
    return mixed


def find_document_lengths(
    batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0, **kwargs: Any
) -> list[int] | None:
    """Return the lengths of all documents of a packed or plain causal forward, row by row, else None.

    The parameters are those that transformers hands to a mask function.
    """
    plain_lengths = isinstance(q_offset, int) and q_offset == 0 and kv_offset == 0 and q_length == kv_length
    if not plain_lengths or kwargs.get("attention_mask") is not None or kwargs.get("use_vmap"):
        return None
    local_size = kwargs.get("local_size")  # of a window, or of chunks, which are as good as documents
    is_plain = kwargs.get("allow_is_causal_skip", True) and not kwargs.get("allow_is_bidirectional_skip")
    if is_plain and (local_size is None or q_length <= local_size):
        return [q_length] * batch_size  # transformers saw no restart: one document per row
    return _read_document_lengths(kwargs["mask_function"], batch_size, q_length, kwargs["device"])


def _read_document_lengths(
    mask_function: Callable[..., torch.Tensor], batch_size: int, length: int, device: torch.device | str
) -> list[int] | None:
    """Return the lengths of all documents of a batch, row by row, or None if the mask is not causal inside them.

    The function answers "may query q see key k"; a token that may not see the one before it starts a document.
    """
    row_B1 = torch.arange(batch_size, device=device)[:, None]
    later_1S = torch.arange(1, length, device=device)[None]
    head = torch.zeros((), dtype=torch.long, device=device)
    sees_previous_BS = mask_function(row_B1, head, later_1S, later_1S - 1).expand(batch_size, -1)
    sees_next_BS = mask_function(row_B1, head, later_1S - 1, later_1S).expand(batch_size, -1)
    # One copy to the host for both answers.
    continues, looks_ahead = torch.stack((sees_previous_BS, sees_next_BS)).cpu()
    if bool(looks_ahead.any()):
        return None
    lengths: list[int] = []
    for row in continues:
        starts = [0, *((~row).nonzero().squeeze(1) + 1).tolist(), length]
        lengths.extend(end - start for start, end in pairwise(starts))
    return lengths


@cache
def _import_xformers() -> Any:
    """Import xformers' operators, late and without its long warning that its compiled part is missing."""
    xformers_logger = logging.getLogger("xformers")
    before = xformers_logger.level
    xformers_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("xformers.ops")
    finally:
        xformers_logger.setLevel(before)
