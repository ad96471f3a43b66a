"""Causal attention of rows whose tokens are split over several processes (context parallelism).

Each process has the queries of its part of every row; keys and values of all parts are gathered, and their gradients
are summed back to where they came from. A part is two pieces, one from each end of the row, so that every process has
about as many pairs of tokens to attend to. A piece looks at the keys from the beginning of its first document to its
own end, and at no others: a mask keeps the documents apart.

Rings pass keys on piece by piece and hold less at once; with grouped keys and rows of 32,000 tokens what is gathered is
small beside the activations (8 heads x 128 x 32,768 x 2 tensors x 2 bytes = 134 MB for a layer at a time).

Letters: B rows, T tokens of a row, L of a part, P of a piece, S keys in sight, H query heads, G key and value heads,
K head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import distributed
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.attention_extras import refuse_extras

SPLIT_ATTENTION = "split"
"""Its name as an attention implementation."""
_KINDS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class SplitRows:
    """Where the parts of some rows are, and what their tokens may see; it stands in the place of a mask.

    Attributes:
        group: of the processes that share the rows.
        starts_BT: place of the first token of each token's document, in its row; int64, on the device.
        window: tokens that a query sees, itself included; None for all before it.
    """

    group: Any
    starts_BT: torch.Tensor
    window: int | None = None


_rows: ContextVar[SplitRows | None] = ContextVar("split_rows", default=None)


@contextmanager
def splitting(rows: SplitRows) -> Iterator[None]:
    """Make a forward inside the block one of a part of these rows."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def register_split_attention() -> None:
    """Make `attn_implementation="split"` known to transformers; harmless when repeated."""
    AttentionInterface.register(SPLIT_ATTENTION, attend_to_all_parts)
    AttentionMaskInterface.register(SPLIT_ATTENTION, find_split_rows)


def check_splittable(model: PreTrainedModel) -> None:
    """Check that tokens of a model see each other through nothing but attention to all or to the last ones.

    Raises:
        ModelError: some layers pass a state from token to token, which would end where a part does.
    """
    config = model.config.get_text_config(decoder=True)
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _KINDS)
    if any(isinstance(module, torch.nn.Conv1d) for module in model.modules()):  # as every recurrent layer has
        others.append("convolutions over tokens")
    if others:
        raise ModelError(
            f"model: {type(model).__name__} has layers ({', '.join(others)}) that cannot be split over ranks.",
            hint="Leave --cp-size out.",
        )


def find_split_rows(*args: Any, **kwargs: Any) -> SplitRows:
    """Return the rows of this forward; transformers calls it once per kind of layer and hands the answer to each."""
    rows = _rows.get()
    assert rows is not None, "a model with split attention is called with `splitting`"
    return replace(rows, window=kwargs.get("local_size"))


def find_pieces(length: int, size: int, part: int) -> tuple[slice, slice]:
    """Return the two pieces of a row that one process has.

    Args:
        length: of the row (in tokens); a multiple of 2 x size.
        size: processes that share it.
        part: number of this one among them.

    >>> find_pieces(16, 2, 0), find_pieces(16, 2, 1)
    ((slice(0, 4, None), slice(12, 16, None)), (slice(4, 8, None), slice(8, 12, None)))
    """
    piece = length // (2 * size)
    last = 2 * size - 1 - part
    return slice(part * piece, (part + 1) * piece), slice(last * piece, (last + 1) * piece)


def attend_to_all_parts(
    module: torch.nn.Module,
    query_BHLK: torch.Tensor,
    key_BGLK: torch.Tensor,
    value_BGLK: torch.Tensor,
    attention_mask: SplitRows,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from this part of the rows to all parts before it.

    Returns:
        The mixed values (B, L, H, K), and None in place of the attention weights.

    Raises:
        ModelError: the model's attention is more than that.
    """
    refuse_extras(kwargs, "attention of split sequences", "Leave --cp-size out.")
    kwargs.pop("is_causal", None)
    rows, length = attention_mask, attention_mask.starts_BT.shape[1]
    size, part = distributed.get_world_size(rows.group), distributed.get_rank(rows.group)
    if torch.is_autocast_enabled(query_BHLK.device.type):
        # Rotary embeddings leave queries and keys in fp32 under autocast: half of what is gathered would be waste.
        dtype = torch.get_autocast_dtype(query_BHLK.device.type)
        query_BHLK, key_BGLK, value_BGLK = (tensor.to(dtype) for tensor in (query_BHLK, key_BGLK, value_BGLK))
    key_BGTK = gather_parts(key_BGLK, rows.group, size)
    value_BGTK = gather_parts(value_BGLK, rows.group, size)
    mixed = []
    for piece, query_BHPK in zip(find_pieces(length, size, part), query_BHLK.chunk(2, dim=2), strict=True):
        # One copy to the host for a row's first visible key; the same in all layers, and small beside them.
        first = int(rows.starts_BT[:, piece].min())
        seen = slice(first, piece.stop)
        mask_B1PS = _find_visible(rows, piece, seen)
        mixed.append(
            sdpa_attention_forward(
                module, query_BHPK, key_BGTK[:, :, seen], value_BGTK[:, :, seen], mask_B1PS, **kwargs
            )[0]
        )
    return torch.cat(mixed, dim=1), None


def _find_visible(rows: SplitRows, queries: slice, keys: slice) -> torch.Tensor:
    """Return which keys each query may see, bool [B, 1, P, S]."""
    device = rows.starts_BT.device
    query_P1 = torch.arange(queries.start, queries.stop, device=device)[:, None]
    key_1S = torch.arange(keys.start, keys.stop, device=device)[None]
    visible_BPS = (key_1S <= query_P1) & (key_1S >= rows.starts_BT[:, queries, None])
    if rows.window is not None:
        visible_BPS = visible_BPS & (key_1S > query_P1 - rows.window)
    return visible_BPS[:, None]


def gather_parts(part_BGLK: torch.Tensor, group: Any, size: int) -> torch.Tensor:
    """Return the keys or values of whole rows, [B, G, T, K] in the order of the tokens; its gradients go back."""
    gathered: torch.Tensor = _GatherParts.apply(part_BGLK, group, size)  # type: ignore[no-untyped-call]
    return gathered


class _GatherParts(torch.autograd.Function):
    """All-gather forward, reduce-scatter backward, both over the tokens."""

    @staticmethod
    def forward(ctx: Any, part_BGLK: torch.Tensor, group: Any, size: int) -> torch.Tensor:
        ctx.group, ctx.size = group, size
        part_BGLK = part_BGLK.contiguous()
        parts = part_BGLK.new_empty(size, *part_BGLK.shape)
        distributed.all_gather_into_tensor(parts.flatten(0, 1), part_BGLK, group=group)
        heads, tails = zip(*(each.chunk(2, dim=2) for each in parts), strict=True)
        return torch.cat([*heads, *reversed(tails)], dim=2)

    @staticmethod
    def backward(ctx: Any, gradient_BGTK: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        pieces = gradient_BGTK.float().chunk(2 * ctx.size, dim=2)  # summed in fp32, as weights' gradients are
        parts = [torch.cat([pieces[part], pieces[-1 - part]], dim=2) for part in range(ctx.size)]
        own = torch.empty_like(parts[0])
        distributed.reduce_scatter_tensor(own, torch.cat(parts), group=ctx.group)
        return own.to(gradient_BGTK.dtype), None, None
