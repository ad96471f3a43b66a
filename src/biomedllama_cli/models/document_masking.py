"""Whether a model keeps the documents of a row apart, tried out: some architectures cannot."""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_TRIED = ("sdpa", "eager", "documents")
"""Others need the device or the ranks that the model is not on yet: sdpa, which sees the same, is tried for them."""


def keeps_documents_apart(model: PreTrainedModel) -> bool:
    """Return whether what a row's first document says changes nothing of its second, where positions start anew.

    Args:
        model: on the CPU or its device, not wrapped yet; left in the mode it was in.
    """
    device = next(model.parameters()).device
    input_ids = torch.tensor([[3, 4, 5, 6], [7, 8, 5, 6]], device=device) % model.config.vocab_size
    position_ids = torch.tensor([[0, 1, 0, 1]], device=device).expand(2, -1)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        hidden = model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False)
    model.train(was_training)
    first, second = hidden.last_hidden_state[:, 2:].float()
    return bool(torch.allclose(first, second, rtol=1e-2, atol=1e-2 * float(first.std())))


def tell_where_documents_meet(model: PreTrainedModel) -> None:
    """Warn of a model whose tokens see the documents before theirs in a row."""
    attention = model.config._attn_implementation
    if attention in _TRIED:
        is_apart = keeps_documents_apart(model)
    else:
        model.set_attn_implementation("sdpa")
        is_apart = keeps_documents_apart(model)
        model.set_attn_implementation(attention)
    if not is_apart:
        logger.warning(
            "%s does not keep the documents of a row apart: each token sees those before its own too, in training and "
            "wherever packed rows are scored",
            type(model).__name__,
        )
