"""FlashAttention 2 for transformers models, document by document: one call for all documents of all rows.

The operator takes the ends of the documents instead of a mask. It is torch's own `varlen_attn`, or that of the
package `flash-attn` where torch's does not run. As with xformers (`models/attention.py`), transformers asks a
registered mask function once per forward and kind of layer, and hands its answer to every layer's attention function.

Letters: B sequences, T tokens, M = B x T, D documents, H query heads, G key and value heads, K head size.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from biomedllama_cli.models.attention import find_document_lengths
from biomedllama_cli.models.attention_extras import refuse_dropout, refuse_extras
from biomedllama_cli.models.document_attention import Documents, attend_by_document

FLASH_ATTENTION = "flash_attention_2"
"""What users call it."""
VARLEN_ATTENTION = "varlen"
"""Its name as an attention implementation; of every name with `flash` in it transformers makes its own."""

_DTYPES = (torch.bfloat16, torch.float16)
_HINT = "Use --attention sdpa."


@dataclass(frozen=True)
class LaidOutDocuments(Documents):
    """Documents as the operator wants them.

    Attributes:
        lengths: of all documents, row by row (in tokens); they add up to M.
        window: tokens that a query sees, itself included; None for all before it.
        ends: 0 and the end of each document among all M tokens, int32 [D + 1], on the device.
    """

    ends: torch.Tensor

    @property
    def longest(self) -> int:
        """Return the tokens of the longest document."""
        return max(self.lengths)

    @property
    def tokens_before(self) -> int:
        """Return how many tokens before its own a query sees; -1 for all."""
        return -1 if self.window is None or self.window >= self.longest else self.window - 1


Operator = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, LaidOutDocuments, float], torch.Tensor]
"""From queries [M, H, K], keys and values [M, G, K], documents and the scale of scores to mixed values [M, H, K]."""


def register_flash_attention() -> None:
    """Make `attn_implementation="varlen"` known to transformers; harmless when repeated."""
    AttentionInterface.register(VARLEN_ATTENTION, attend_to_documents)
    AttentionMaskInterface.register(VARLEN_ATTENTION, lay_out_documents)


def find_flash_obstacle(device_type: str, dtype: torch.dtype) -> str | None:
    """Return why no operator can train in `dtype` on this kind of device, or None when one can."""
    if dtype not in _DTYPES:
        return f"it computes in bf16 and fp16 alone, not in {str(dtype).removeprefix('torch.')}"
    if device_type != "cuda" or not torch.cuda.is_available():
        return f"it needs CUDA, and the device is {device_type}"
    found = _find_operator(dtype)
    return found if isinstance(found, str) else None


@cache
def _find_operator(dtype: torch.dtype) -> Operator | str:
    """Return the first operator that runs on the CUDA device and is right, else why none is."""
    obstacles = []
    for name, operator in (("torch", attend_with_torch), ("flash-attn", attend_with_package)):
        try:
            obstacle = try_operator(operator, torch.device("cuda"), dtype)
        except (ImportError, NotImplementedError, RuntimeError, AttributeError, TypeError, OSError) as error:
            obstacle = " ".join(str(error).split())[:200] or type(error).__name__
        if obstacle is None:
            return operator
        obstacles.append(f"{name}: {obstacle}")
    return "; ".join(obstacles)


def try_operator(operator: Operator, device: torch.device, dtype: torch.dtype) -> str | None:
    """Run an operator forward and backward, with grouped heads and a window, and return what is wrong with it, or None.

    Raises:
        Exception: whatever the operator raises.
    """
    documents = _lay_out([3, 13], device, window=4)
    place_M = torch.arange(16, device=device)
    second_M = place_M >= 3
    apart_MM = place_M[:, None] - place_M
    seen_MM = (second_M[:, None] == second_M) & (apart_MM >= 0) & (apart_MM < 4)
    draw = torch.Generator().manual_seed(0)
    results = []
    inputs = [torch.randn(16, heads, 32, generator=draw) for heads in (4, 2, 2)]
    for is_ours in (True, False):
        leaves = [part.to(device, dtype).requires_grad_() for part in inputs]
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            if is_ours:
                mixed_MHK = operator(leaves[0], leaves[1], leaves[2], documents, 0.25)
            else:
                query, key, value = (part.float().transpose(0, 1)[None] for part in leaves)
                mixed_MHK = functional.scaled_dot_product_attention(
                    query, key, value, attn_mask=seen_MM, scale=0.25, enable_gqa=True
                )[0].transpose(0, 1)
            torch.autograd.backward(mixed_MHK.float().square().sum())
        results.append([mixed_MHK.detach(), *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*results, strict=True):
        if ours is None or not (ours.float() - expected.float()).norm() < 0.05 * expected.float().norm():
            return "its results are not those of plain attention"
    return None


def attend_with_torch(
    query_MHK: torch.Tensor,
    key_MGK: torch.Tensor,
    value_MGK: torch.Tensor,
    documents: LaidOutDocuments,
    scale: float,
) -> torch.Tensor:
    """Attend with torch's operator (see `Operator`)."""
    ends, longest = documents.ends, documents.longest
    mixed_MHK: torch.Tensor = importlib.import_module("torch.nn.attention.varlen").varlen_attn(
        *(query_MHK, key_MGK, value_MGK, ends, ends, longest, longest),
        scale=scale,
        window_size=(documents.tokens_before, 0),
        enable_gqa=query_MHK.shape[1] != key_MGK.shape[1],
    )
    return mixed_MHK


def attend_with_package(
    query_MHK: torch.Tensor,
    key_MGK: torch.Tensor,
    value_MGK: torch.Tensor,
    documents: LaidOutDocuments,
    scale: float,
) -> torch.Tensor:
    """Attend with the operator of the package flash-attn (see `Operator`)."""
    ends, longest = documents.ends, documents.longest
    mixed_MHK: torch.Tensor = importlib.import_module("flash_attn").flash_attn_varlen_func(
        *(query_MHK, key_MGK, value_MGK, ends, ends, longest, longest),
        softmax_scale=scale,
        causal=True,
        window_size=(documents.tokens_before, 0),
    )
    return mixed_MHK


def lay_out_documents(
    batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0, **kwargs: Any
) -> LaidOutDocuments | torch.Tensor | None:
    """Return the documents of a packed or plain causal forward, else the mask that SDPA would get.

    transformers calls this; the parameters are those of its `sdpa_mask`.
    """
    lengths = find_document_lengths(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)
    if lengths is None:
        mask: torch.Tensor | None = sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)
        return mask
    return _lay_out(lengths, torch.device(kwargs["device"]), kwargs.get("local_size"))


def _lay_out(lengths: list[int], device: torch.device, window: int | None) -> LaidOutDocuments:
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
    return LaidOutDocuments(tuple(lengths), window, ends)


def attend_to_documents(
    module: torch.nn.Module,
    query_BHTK: torch.Tensor,
    key_BGTK: torch.Tensor,
    value_BGTK: torch.Tensor,
    attention_mask: LaidOutDocuments | torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each document, or with SDPA where the mask is a tensor or nothing.

    Returns:
        The mixed values (B, T, H, K), and None in place of the attention weights.

    Raises:
        ModelError: the model's attention is more than that.
    """
    dtype = value_BGTK.dtype
    if torch.is_autocast_enabled(query_BHTK.device.type):
        # Rotary embeddings leave queries and keys in fp32 under autocast; SDPA is cast by it, this operator is not.
        dtype = torch.get_autocast_dtype(query_BHTK.device.type)
    if not isinstance(attention_mask, LaidOutDocuments) or dtype not in _DTYPES:
        otherwise = attend_by_document if isinstance(attention_mask, Documents) else sdpa_attention_forward
        mixed: tuple[torch.Tensor, None] = otherwise(
            *(module, query_BHTK, key_BGTK, value_BGTK, attention_mask),
            dropout=dropout,
            scaling=scaling,
            **kwargs,
        )
        return mixed
    refuse_extras(kwargs, "FlashAttention as used here", _HINT)
    refuse_dropout(dropout, "FlashAttention as used here", _HINT)
    batch, _, length, size = query_BHTK.shape

    def flatten(tensor_BHTK: torch.Tensor) -> torch.Tensor:
        flat_MHK = tensor_BHTK.to(dtype).transpose(1, 2).flatten(0, 1)
        # The operator wants heads of a multiple of 8; zeros change no product.
        return functional.pad(flat_MHK, (0, -size % 8)) if size % 8 else flat_MHK.contiguous()

    scale = size**-0.5 if scaling is None else scaling
    mixed_MHK = _attend(flatten(query_BHTK), flatten(key_BGTK), flatten(value_BGTK), attention_mask, scale)
    return mixed_MHK[..., :size].reshape(batch, length, -1, size), None


def _attend(
    query_MHK: torch.Tensor,
    key_MGK: torch.Tensor,
    value_MGK: torch.Tensor,
    documents: LaidOutDocuments,
    scale: float,
) -> torch.Tensor:
    operator = _find_operator(query_MHK.dtype)
    assert not isinstance(operator, str), "models with this attention are loaded where an operator runs"
    return operator(query_MHK, key_MGK, value_MGK, documents, scale)
