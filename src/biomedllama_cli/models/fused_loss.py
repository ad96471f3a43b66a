"""The cross entropy of every token with its gradients made in the forward pass, so that no logits are made twice.

Letters: N target tokens, C target tokens of one chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

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
    dtype = hidden_ND.dtype
    if torch.is_autocast_enabled(hidden_ND.device.type):
        dtype = torch.get_autocast_dtype(hidden_ND.device.type)
    losses_N: torch.Tensor = _Losses.apply(hidden_ND.to(dtype), weight_VD, target_ids_N)  # type: ignore[no-untyped-call]
    return losses_N


class _Losses(torch.autograd.Function):
    """Takes the weights as they are kept and makes their gradient in fp32: no rounding to the dtype of the products."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, ids_N: torch.Tensor) -> Any:
        losses_N, hidden_grad_ND, ctx.weight_grad_VD = _find(hidden_ND, weight_VD, ids_N, None)
        ctx.save_for_backward(hidden_ND, weight_VD, ids_N, hidden_grad_ND)
        return losses_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad_N,) = grads
        hidden_ND, weight_VD, ids_N, hidden_grad_ND = ctx.saved_tensors
        weight_grad_VD, ctx.weight_grad_VD = ctx.weight_grad_VD, None  # used up: it is scaled in place
        if weight_grad_VD is not None and bool((grad_N == grad_N[0]).all()):
            weight_grad_VD.mul_(grad_N[0])
        else:
            weight_grad_VD = _find(hidden_ND, weight_VD, ids_N, grad_N)[2]
        scaled_ND = (hidden_grad_ND.float() * grad_N[:, None]).to(hidden_ND.dtype)
        return scaled_ND, weight_grad_VD.to(weight_VD.dtype), None


def _find(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, ids_N: torch.Tensor, scale_N: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the losses (fp32), and their gradients: of the hidden states, and of the weights summed in fp32.

    All chunks use the same blocks of memory: on a CPU, new pages for every chunk would cost as much as its products.
    """
    with torch.autocast(hidden_ND.device.type, enabled=False):
        weight_VD = weight_VD.to(hidden_ND.dtype)
        count, size = len(ids_N), min(TOKENS_PER_CHUNK, len(ids_N))
        logits_CV = hidden_ND.new_empty(size, len(weight_VD))
        slope_CV = (
            logits_CV
            if logits_CV.dtype == torch.float32
            else torch.empty_like(logits_CV, dtype=torch.float32)
        )
        losses_N = torch.empty_like(ids_N, dtype=torch.float32)
        hidden_grad_ND = torch.empty_like(hidden_ND)
        weight_grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        weight_part_VD = torch.empty_like(weight_VD)
        for first in range(0, count, size):
            part = slice(first, first + size)
            scale_C1 = None if scale_N is None else scale_N[part, None]
            tokens = len(ids_N[part])
            product_CV = torch.mm(hidden_ND[part], weight_VD.T, out=logits_CV[:tokens])
            losses_N[part] = _find_slope(product_CV, slope_CV[:tokens], ids_N[part, None], scale_C1)
            torch.mm(product_CV, weight_VD, out=hidden_grad_ND[part])
            _add_product(weight_grad_VD, product_CV.T, hidden_ND[part], weight_part_VD, slope_CV)
    return losses_N, hidden_grad_ND, weight_grad_VD


def _add_product(
    sum_VD: torch.Tensor,
    left_VC: torch.Tensor,
    right_CD: torch.Tensor,
    product_VD: torch.Tensor,
    room: torch.Tensor,
) -> None:
    """Add a product to a sum in fp32. `product_VD` is room for the product; `room`, fp32, for parts of it."""
    torch.mm(left_VC, right_CD, out=product_VD)
    width = product_VD.shape[1]
    rows = room.numel() // width
    if product_VD.dtype == torch.float32 or rows == 0:
        sum_VD.add_(product_VD)
        return
    for first in range(0, len(product_VD), rows):  # add_ would make an fp32 copy of all, in new pages
        part_RD = product_VD[first : first + rows]
        sum_VD[first : first + rows].add_(room.view(-1)[: part_RD.numel()].view(-1, width).copy_(part_RD))


def _find_slope(
    logits_CV: torch.Tensor, slope_CV: torch.Tensor, ids_C1: torch.Tensor, scale_C1: torch.Tensor | None
) -> torch.Tensor:
    """Put the gradient of the losses into the place of the logits, and return the losses (fp32 [C]).

    Args:
        logits_CV: in the dtype of the products.
        slope_CV: room for them in fp32; they themselves where that is their dtype.
        ids_C1: targets.
        scale_C1: by which the gradient is multiplied, or None.
    """
    slope_CV.copy_(logits_CV)
    most_C1, target_C1 = slope_CV.amax(dim=1, keepdim=True), slope_CV.gather(1, ids_C1)
    sum_C1 = slope_CV.sub_(most_C1).exp_().sum(dim=1, keepdim=True)
    slope_CV.div_(sum_C1).scatter_add_(1, ids_C1, torch.full_like(sum_C1, -1.0))
    if scale_C1 is not None:
        slope_CV.mul_(scale_C1)
    logits_CV.copy_(slope_CV)
    return (sum_C1.log() + most_C1 - target_C1).squeeze(1)
