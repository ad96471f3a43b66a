"""Causal attention document by document, for devices whose fast kernel takes no mask.

On a CPU, SDPA with a mask computes all pairs of a row's tokens; without one, half of them and faster. A row of several
documents is therefore cut into them, and each attends by itself: the work is that of its own length squared, and no
mask of a row's length squared is ever made. As with xformers (`models/attention.py`), transformers asks a registered
mask function once per forward and kind of layer, and hands its answer to every layer's attention function.

Letters: B sequences, T tokens, M = B x T, L tokens of one document, H query heads, G key and value heads, K head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from biomedllama_cli.models.attention import find_document_lengths

DOCUMENT_ATTENTION = "documents"
"""Its name as an attention implementation."""


@dataclass(frozen=True)
class Documents:
    """What stands in the place of a mask.

    Attributes:
        lengths: of all documents, row by row (in tokens); they add up to M.
        window: tokens that a query sees, itself included; None for all before it.
    """

    lengths: tuple[int, ...]
    window: int | None


def register_document_attention() -> None:
    """Make `attn_implementation="documents"` known to transformers; harmless when repeated."""
    AttentionInterface.register(DOCUMENT_ATTENTION, attend_by_document)
    AttentionMaskInterface.register(DOCUMENT_ATTENTION, find_documents)


def find_documents(
    batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0, **kwargs: Any
) -> Documents | torch.Tensor | None:
    """Return the documents of a packed causal forward, else the mask that SDPA would get.

    transformers calls this; the parameters are those of its `sdpa_mask`.
    """
    lengths = find_document_lengths(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)
    if lengths is None or len(lengths) == batch_size:  # SDPA needs no mask where rows are single documents
        mask: torch.Tensor | None = sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, **kwargs)
        return mask
    return Documents(tuple(lengths), kwargs.get("local_size"))


def attend_by_document(
    module: torch.nn.Module,
    query_BHTK: torch.Tensor,
    key_BGTK: torch.Tensor,
    value_BGTK: torch.Tensor,
    attention_mask: Documents | torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each document, or with SDPA where the mask is a tensor or nothing.

    Returns:
        The mixed values (B, T, H, K), and None in place of the attention weights.
    """
    if not isinstance(attention_mask, Documents):
        mixed: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query_BHTK, key_BGTK, value_BGTK, attention_mask, **kwargs
        )
        return mixed
    kwargs.pop("is_causal", None)
    batch, _, length, _ = query_BHTK.shape
    lengths = list(attention_mask.lengths)

    def split(tensor_BHTK: torch.Tensor) -> list[torch.Tensor]:
        # One split of all tokens: its backward is one concatenation, that of a slice fills a whole row.
        pieces = torch.split(tensor_BHTK.transpose(1, 2).flatten(0, 1), lengths)
        return [piece_LHK.transpose(0, 1)[None] for piece_LHK in pieces]

    parts = zip(split(query_BHTK), split(key_BGTK), split(value_BGTK), strict=True)
    mixed_1LHK = [
        sdpa_attention_forward(
            module, *part, _window_mask(part[0], attention_mask.window), is_causal=True, **kwargs
        )[0]
        for part in parts
    ]
    mixed_1MHK = torch.cat(mixed_1LHK, dim=1)
    return mixed_1MHK.reshape(batch, length, *mixed_1MHK.shape[2:]), None


def _window_mask(query_1HLK: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """Return which keys a query sees, bool [1, 1, L, L], or None where all before it are within the window."""
    length = query_1HLK.shape[2]
    if window is None or length <= window:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=query_1HLK.device)
    return seen.tril_().triu_(1 - window)[None, None]
