"""The cross entropy of next-token prediction, token by token, without the logits of a whole batch in memory.

The sum must be computed inside module calls: under FSDP2 the output table (and a tied input table) is gathered
by the pre-forward hook of the module that holds it, the root or the table itself, and freed after the call; code
outside would see a shard. `enable_token_losses` therefore teaches the model's own forward, and the table's, a
keyword for the targets. The model keeps its class, its parameter names and `save_pretrained`; accelerate, DDP and
FSDP2 wrap it as any other.

Letters: B sequences, T tokens, N target tokens, C target tokens of one chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from biomedllama_cli.models.fused_loss import fused_losses

IGNORED = -100
"""Label of a position that is not predicted."""

LOGITS_PER_CHUNK = 2**25
"""Logits that exist at once (in numbers; 128 MiB in fp32): 1,048 tokens of a vocabulary of 32,000."""

# Attributes by which some architectures change the logits after the output table in a way not written here.
_OTHER_LOGIT_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "final_logits_bias")


def enable_token_losses(model: PreTrainedModel, loss_memory: str = "fused") -> PreTrainedModel:
    """Teach a causal language model to return the loss of every token, and return the model.

    Afterwards `model(input_ids=..., position_ids=..., target_ids_BT=...)` returns them, fp32 [B, T], 0 where nothing is
    predicted; without `target_ids_BT` the forward is unchanged. Call it before the model is wrapped. Calling it
    twice is harmless.

    Args:
        model: not wrapped yet.
        loss_memory: `fused`, `chunks` or `plain`; where the head is no plain linear layer, and in fp16, fused is
            chunks.
    """
    model.get_output_embeddings().loss_memory = loss_memory
    if getattr(model, "_has_token_losses", False):
        return model
    # Bound as a method, because accelerate re-wraps `forward.__func__`; no closure, because models are copied.
    model.forward = MethodType(_forward, model)
    _teach_head(model)
    model._has_token_losses = True
    return model


def token_losses(
    model: torch.nn.Module, input_ids_BT: torch.Tensor, labels_BT: torch.Tensor, position_ids_BT: torch.Tensor
) -> torch.Tensor:
    """Return the cross entropy of every token (in nats, fp32 [B, T]), 0 where nothing is predicted.

    No attention mask is passed: positions that restart inside a row are the document boundaries, and a mask of
    ones would silently switch them off. The caller sums, and divides by the step's target tokens over all ranks.

    Args:
        model: one that went through `enable_token_losses`, wrapped or not.
        input_ids_BT: token ids.
        labels_BT: the token that follows each position, already shifted; -100 where nothing is predicted.
        position_ids_BT: place of each token in its document.
    """
    losses_BT: torch.Tensor = model(
        input_ids=input_ids_BT, position_ids=position_ids_BT, target_ids_BT=labels_BT, use_cache=False
    )
    return losses_BT


def _forward(
    self: PreTrainedModel, *args: Any, target_ids_BT: torch.Tensor | None = None, **kwargs: Any
) -> Any:
    if target_ids_BT is None:
        return type(self).forward(self, *args, **kwargs)
    return _find_losses(self, target_ids_BT, kwargs)


def _find_losses(model: PreTrainedModel, target_ids_BT: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    # Before the forward, so that the copy of the indices to the host waits for no kernel of this forward.
    target_places_N = (target_ids_BT.reshape(-1) != IGNORED).nonzero().squeeze(1)
    target_ids_N = target_ids_BT.reshape(-1)[target_places_N]
    if any(hasattr(owner, name) for name in _OTHER_LOGIT_SCALES for owner in (model, model.config)):
        logits_NV = type(model).forward(model, **kwargs).logits.flatten(0, 1)[target_places_N]
        losses_N = functional.cross_entropy(logits_NV.float(), target_ids_N, reduction="none")
        return _place(losses_N, target_places_N, target_ids_BT)
    hidden_BTD = model.base_model(**kwargs).last_hidden_state
    if target_places_N.numel() == 0:
        # Every parameter stays in the graph: other ranks wait for its gradient.
        nothing: torch.Tensor = model.get_output_embeddings()(hidden_BTD[:, :1]) * 0.0
        return nothing.float().sum() + torch.zeros(
            target_ids_BT.shape, dtype=torch.float32, device=hidden_BTD.device
        )
    hidden_ND = hidden_BTD.flatten(0, 1)[target_places_N]
    losses_N = model.get_output_embeddings()(hidden_ND, target_ids_N=target_ids_N)
    return _place(losses_N, target_places_N, target_ids_BT)


def _place(losses_N: torch.Tensor, places_N: torch.Tensor, like_BT: torch.Tensor) -> torch.Tensor:
    """Return the losses at their places; index_copy, because each place is there once: sums stay the same bits.

    A copy and no view, which FSDP2 would warn of.
    """
    return losses_N.new_zeros(like_BT.numel()).index_copy(0, places_N, losses_N).view_as(like_BT).clone()


def _teach_head(model: PreTrainedModel) -> None:
    """Teach the output table to return the losses of hidden states, chunk by chunk.

    The chunks are inside one call of the module, because FSDP2 gathers and reduces once per call: with one call
    per chunk the output table would be reduced once per chunk, and ranks with different numbers of target tokens
    would disagree about the number of collectives.
    """
    head: Any = model.get_output_embeddings()
    head.logit_cap = getattr(model.config, "final_logit_softcapping", None)
    head.forward = MethodType(_head_forward, head)


def _head_forward(
    self: Any, hidden_ND: torch.Tensor, *, target_ids_N: torch.Tensor | None = None
) -> torch.Tensor:
    if target_ids_N is None:
        logits: torch.Tensor = type(self).forward(self, hidden_ND)
        return logits
    memory = getattr(self, "loss_memory", "fused")
    if memory == "plain":
        return _find_chunk_losses(self, hidden_ND, target_ids_N)
    if memory == "fused" and _is_fusible(self, hidden_ND):
        return fused_losses(hidden_ND, self.weight, target_ids_N)
    chunk = max(1, LOGITS_PER_CHUNK // self.weight.shape[0])
    chunks = list(zip(torch.split(hidden_ND, chunk), torch.split(target_ids_N, chunk), strict=True))
    if len(chunks) == 1:
        return _find_chunk_losses(self, *chunks[0])
    # The backward pass computes the logits of one chunk again instead of keeping all of them.
    return torch.cat(
        [
            checkpoint(_find_chunk_losses, self, *chunk, use_reentrant=False, preserve_rng_state=False)
            for chunk in chunks
        ]
    )


def _is_fusible(head: Any, hidden_ND: torch.Tensor) -> bool:
    is_plain = type(head).forward is torch.nn.Linear.forward and head.bias is None
    is_trained = head.weight.requires_grad and torch.is_grad_enabled()
    return is_plain and not head.logit_cap and is_trained and not _computes_in_fp16(hidden_ND)


def _computes_in_fp16(hidden_ND: torch.Tensor) -> bool:
    """Return whether gradients may be below what fp16 holds: those of the fused loss are made before it is scaled."""
    if torch.is_autocast_enabled(hidden_ND.device.type):
        return torch.get_autocast_dtype(hidden_ND.device.type) == torch.float16
    return hidden_ND.dtype == torch.float16


def _find_chunk_losses(head: Any, hidden_CD: torch.Tensor, target_ids_C: torch.Tensor) -> torch.Tensor:
    # Not `head(...)`: its hooks, such as FSDP2's, have run for the call that this chunk is part of.
    logits_CV: torch.Tensor = type(head).forward(head, hidden_CD).float()
    if head.logit_cap:
        logits_CV = torch.tanh(logits_CV / head.logit_cap) * head.logit_cap
    losses_C: torch.Tensor = functional.cross_entropy(logits_CV, target_ids_C, reduction="none")
    return losses_C
