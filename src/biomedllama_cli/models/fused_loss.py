"""The cross entropy of every token with its gradients made in the forward pass, so that no logits are made twice.

Letters: N target tokens, C target tokens of one chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from biomedllama_cli.models.heap import give_back_freed_memory

TOKENS_PER_CHUNK = 512
"""Tokens whose logits exist at once."""


def fused_losses(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_ids_N: torch.Tensor
) -> torch.Tensor:
    """Return the cross entropy of every token (in nats, fp32 [N]); products are made in autocast's dtype.

    The gradients are made for a loss in which all tokens weigh the same, as in a sum or a mean, and scaled in the
    backward pass; where tokens weigh differently, that of the weights is computed again.

    Here a process needs most memory: all activations are kept, and nothing of the backward pass is free yet. On a CPU
    what the forward pass freed is therefore given back first, unless there is little of it.
    """
    if hidden_ND.device.type == "cpu" and len(target_ids_N) > TOKENS_PER_CHUNK:
        give_back_freed_memory()
    if torch.is_autocast_enabled(hidden_ND.device.type):
        dtype = torch.get_autocast_dtype(hidden_ND.device.type)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
    losses_N: torch.Tensor = _Losses.apply(hidden_ND, weight_VD, target_ids_N)  # type: ignore[no-untyped-call]
    return losses_N


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, ids_N: torch.Tensor) -> Any:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            losses_N, hidden_grad_ND, weight_grad_VD = _find(hidden_ND, weight_VD, ids_N, None)
        ctx.save_for_backward(hidden_ND, weight_VD, ids_N, hidden_grad_ND, weight_grad_VD)
        return losses_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad_N,) = grads
        hidden_ND, weight_VD, ids_N, hidden_grad_ND, weight_grad_VD = ctx.saved_tensors
        if bool((grad_N == grad_N[0]).all()):
            weight_grad_VD = weight_grad_VD * grad_N[0]
        else:
            with torch.autocast(hidden_ND.device.type, enabled=False):
                weight_grad_VD = _find(hidden_ND, weight_VD, ids_N, grad_N)[2]
        scaled_ND = (hidden_grad_ND.float() * grad_N[:, None]).to(hidden_ND.dtype)
        return scaled_ND, weight_grad_VD.to(weight_VD.dtype), None


def _find(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, ids_N: torch.Tensor, scale_N: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the losses, and their gradients: of the hidden states, and of the weights summed in fp32."""
    losses, hidden_grads = [], []
    weight_grad_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
    for first in range(0, len(ids_N), TOKENS_PER_CHUNK):
        part = slice(first, first + TOKENS_PER_CHUNK)
        hidden_CD, ids_C1 = hidden_ND[part], ids_N[part, None]
        logits_CV = functional.linear(hidden_CD, weight_VD).float()
        log_sum_C1 = torch.logsumexp(logits_CV, dim=1, keepdim=True)
        losses.append((log_sum_C1 - logits_CV.gather(1, ids_C1)).squeeze(1))
        slope_CV = logits_CV.sub_(log_sum_C1).exp_()
        slope_CV.scatter_add_(1, ids_C1, torch.full_like(log_sum_C1, -1.0))
        if scale_N is not None:
            slope_CV.mul_(scale_N[part, None])
        slope_CV = slope_CV.to(weight_VD.dtype)
        hidden_grads.append(slope_CV @ weight_VD)
        weight_grad_VD.add_(slope_CV.T @ hidden_CD)
    return torch.cat(losses), torch.cat(hidden_grads), weight_grad_VD
