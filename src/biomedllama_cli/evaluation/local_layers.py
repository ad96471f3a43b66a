"""GPT-Neo's local layers, which look back by place in the row; in a row of a tree it must be by position.

Letters: B rows, T tokens of a row, S keys (those of preambles, then the row's).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional
from transformers import PreTrainedModel


@contextmanager
def positions_in_local_layers(
    model: PreTrainedModel, queries_BT: torch.Tensor, keys_BS: torch.Tensor
) -> Iterator[None]:
    """Let local layers see the keys whose position is less than a window back, during one forward.

    Each such layer holds its window as a table of places, `bias`, of which a forward reads the last T rows and the
    first S columns; the mask of the tree is added to that.
    """
    layers = [
        module
        for module in model.modules()
        if getattr(module, "attention_type", None) == "local" and hasattr(module, "bias")
    ]
    if not layers:
        yield
        return
    near_BTS = queries_BT[:, :, None] - keys_BS[:, None, :] < model.config.window_size
    before = keys_BS.shape[1] - queries_BT.shape[1]
    table_B1SS = functional.pad(near_BTS, (0, 0, before, 0))[:, None]
    tables = [layer.bias for layer in layers]
    try:
        for layer in layers:
            layer.bias = table_B1SS
        yield
    finally:
        for layer, table in zip(layers, tables, strict=True):
            layer.bias = table
