"""torch's flex attention for transformers models, with documents kept apart by a mask of blocks.

transformers asks a registered mask function for one mask per forward and kind of layer (full, sliding), and hands
whatever it returns to every layer's attention function. Here that is a `BlockMask`, made of the place of the first key
that each query sees, never of a T x T tensor: as documents follow each other, that place never goes down in a row, so
the blocks of keys that a block of queries touches are one stretch, and so are those that it sees whole.

Letters: B sequences, T tokens, N = T / 128 blocks, H query heads, G key and value heads, K head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from biomedllama_cli.models.attention import find_document_lengths
from biomedllama_cli.models.attention_extras import refuse_dropout, refuse_extras

FLEX_ATTENTION = "flex"
"""Its name as an attention implementation; transformers has `flex_attention`, which makes its mask in another way."""
_BLOCK = 128
_HINT = "Use --attention sdpa."


def register_flex_attention() -> None:
    """Make `attn_implementation="flex"` known to transformers; harmless when repeated."""
    AttentionInterface.register(FLEX_ATTENTION, attend_in_blocks)
    AttentionMaskInterface.register(FLEX_ATTENTION, find_block_mask)


@cache
def find_flex_obstacle(device_type: str, dtype: torch.dtype) -> str | None:
    """Return why flex attention cannot train in `dtype` on this kind of device, or None when it can.

    It is compiled and run once, forward and backward: whether Triton works shows only then.
    """
    if device_type != "cuda" or not torch.cuda.is_available():
        return f"it has a backward pass on CUDA alone, and the device is {device_type}"
    try:
        with torch.enable_grad():
            query = torch.ones(1, 1, _BLOCK, 32, device="cuda", dtype=dtype, requires_grad=True)
            mixed = _attend(query, query, query, build_block_mask([[100, 28]], query.device), scale=None)
            torch.autograd.backward(mixed.sum())
    except Exception as error:  # the compiler's errors have no common parent
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None


def build_block_mask(
    rows: Sequence[Sequence[int]], device: torch.device, window: int | None = None
) -> BlockMask:
    """Build the causal mask of rows of documents laid end to end.

    Args:
        rows: tokens per document, of each row; all rows are equally long.
        device: of the mask.
        window: tokens that a query sees, itself included; None for all before it.
    """
    first_BT = _find_first_keys(rows, window).to(device, non_blocking=True)
    length = first_BT.shape[1]
    last_N = torch.arange(_BLOCK - 1, length + _BLOCK - 1, _BLOCK, device=device).clamp(max=length - 1)
    number_N = torch.arange(len(last_N), device=device)
    touched_BNN = number_N >= (first_BT[:, ::_BLOCK] // _BLOCK)[..., None]
    whole_BNN = (number_N < number_N[:, None]) & (number_N * _BLOCK >= first_BT[:, last_N][..., None])
    partial_BNN = touched_BNN & (number_N <= number_N[:, None]) & ~whole_BNN

    def sees(row: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        seen: torch.Tensor = (key <= query) & (key >= first_BT[row, query])
        return seen

    return BlockMask.from_kv_blocks(
        *_list_blocks(partial_BNN),
        *_list_blocks(whole_BNN),
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(length, length),
    )


def _find_first_keys(rows: Sequence[Sequence[int]], window: int | None) -> torch.Tensor:
    """Return the place of the first key that each query sees, int64 [B, T], on the host."""
    first = []
    for lengths in rows:
        lengths_D = torch.tensor(lengths)
        starts_D = lengths_D.cumsum(0) - lengths_D
        first.append(torch.repeat_interleave(starts_D, lengths_D))
    first_BT = torch.stack(first)
    if window is None:
        return first_BT
    return torch.maximum(first_BT, torch.arange(first_BT.shape[1]) - (window - 1))


def _list_blocks(chosen_BNN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many blocks of keys each block of queries has, int32 [B, 1, N], and which, first in [B, 1, N, N]."""
    counts_BN = chosen_BNN.sum(-1, dtype=torch.int32)
    places_BNN = chosen_BNN.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return counts_BN[:, None].contiguous(), places_BNN[:, None].contiguous()


def split_lengths(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Return the lengths of the documents of each row.

    Args:
        lengths: of all documents, row by row.
        length: of a row.

    >>> split_lengths([3, 1, 4, 2, 2], 4)
    [[3, 1], [4], [2, 2]]
    """
    rows: list[list[int]] = [[]]
    for one in lengths:
        if sum(rows[-1]) == length:
            rows.append([])
        rows[-1].append(one)
    return rows


def find_block_mask(
    batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0, **kwargs: Any
) -> BlockMask | torch.Tensor | None:
    """Return the mask of blocks of a packed or plain causal forward, else the mask that SDPA would get.

    transformers calls this; the parameters are those of its `sdpa_mask`.
    """
    lengths = find_document_lengths(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)
    if lengths is None:
        mask: torch.Tensor | None = sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)
        return mask
    rows = split_lengths(lengths, q_length)
    return build_block_mask(rows, torch.device(kwargs["device"]), kwargs.get("local_size"))


def attend_in_blocks(
    module: torch.nn.Module,
    query_BHTK: torch.Tensor,
    key_BGTK: torch.Tensor,
    value_BGTK: torch.Tensor,
    attention_mask: BlockMask | torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with flex attention where the mask is one of blocks; with SDPA where it is a tensor or nothing.

    Returns:
        The mixed values (B, T, H, K), and None in place of the attention weights.

    Raises:
        ModelError: the model's attention is more than that.
    """
    if not isinstance(attention_mask, BlockMask):
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
    refuse_extras(kwargs, "flex attention as used here", _HINT)
    refuse_dropout(dropout, "flex attention", _HINT)
    dtype = value_BGTK.dtype
    if torch.is_autocast_enabled(query_BHTK.device.type):
        # Rotary embeddings leave queries and keys in fp32 under autocast; SDPA is cast by it, this operator is not.
        dtype = torch.get_autocast_dtype(query_BHTK.device.type)
    query_BHTK, key_BGTK, value_BGTK = (part.to(dtype) for part in (query_BHTK, key_BGTK, value_BGTK))
    mixed_BHTK = _attend(query_BHTK, key_BGTK, value_BGTK, attention_mask, scale=scaling)
    return mixed_BHTK.transpose(1, 2).contiguous(), None


def _attend(
    query_BHTK: torch.Tensor,
    key_BGTK: torch.Tensor,
    value_BGTK: torch.Tensor,
    mask: BlockMask,
    *,
    scale: float | None,
) -> torch.Tensor:
    # On the CPU the compiled form needs a C++ compiler, and has no backward pass either.
    is_plain = query_BHTK.device.type == "cpu" or torch.compiler.is_compiling()
    operator = flex_attention if is_plain else _compile()
    is_grouped = query_BHTK.shape[1] != key_BGTK.shape[1]
    mixed_BHTK: torch.Tensor = operator(
        query_BHTK, key_BGTK, value_BGTK, block_mask=mask, scale=scale, enable_gqa=is_grouped
    )
    return mixed_BHTK


@cache
def _compile() -> Any:
    """Compile the operator, once for the process: uncompiled it makes all T x T scores."""
    return torch.compile(flex_attention)
