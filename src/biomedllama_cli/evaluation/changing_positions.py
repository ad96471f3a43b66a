"""Rotary positions that change with the length of a text: keys of a shorter text are not those of a longer one.

`longrope` takes other frequencies beyond a length, `dynamic` others at every length beyond the trained one; all rows of
a batch get those of the longest. See `dynamic_rope_update` in transformers/modeling_rope_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel


def change_with_length(model: PreTrainedModel) -> bool:
    """Tell whether a model's rotary positions change with the length of what it reads."""
    return any(_is_dynamic(one) or _is_long(one) for one in _list_parameters(model))


def crosses_boundary(model: PreTrainedModel, known: int, length: int) -> bool:
    """Tell whether what a model has read is to be read anew, since it takes other frequencies from here on.

    transformers' Phi3 does so as it generates (`prepare_inputs_for_generation`).

    Args:
        model: any.
        known: tokens read so far.
        length: tokens read so far and now.
    """
    return any(
        0 < known <= one["original_max_position_embeddings"] < length
        for one in _list_parameters(model)
        if _is_long(one)
    )


@torch.inference_mode()
def forget_lengths(model: PreTrainedModel) -> None:
    """Have a model's `dynamic` positions begin again: they stay those of the longest text until a short one comes."""
    if any(map(_is_dynamic, _list_parameters(model))):
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)


def _list_parameters(model: PreTrainedModel) -> list[Mapping[str, Any]]:
    """Return the rotary settings, which are those of all layers or of each kind of layer."""
    given = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return [given, *(one for one in given.values() if isinstance(one, Mapping))]


def _is_dynamic(parameters: Mapping[str, Any]) -> bool:
    return "dynamic" in (parameters.get("rope_type") or "")


def _is_long(parameters: Mapping[str, Any]) -> bool:
    return bool(parameters.get("rope_type") == "longrope")
