"""The loss whose gradients are made in the forward pass, against torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from biomedllama_cli.models import fused_loss, loss
from biomedllama_cli.models.loss import enable_token_losses, token_losses


@pytest.mark.parametrize("is_uniform", [True, False])
def test_losses_and_gradients_equal_torch_s(monkeypatch: pytest.MonkeyPatch, is_uniform: bool) -> None:
    monkeypatch.setattr(fused_loss, "TOKENS_PER_CHUNK", 5)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(13, 8, generator=generator, requires_grad=True)
    weight = torch.randn(30, 8, generator=generator, requires_grad=True)
    ids = torch.randint(0, 30, (13,), generator=generator)
    scale = torch.full((13,), 0.25) if is_uniform else torch.rand(13, generator=generator)
    found = []
    for losses in (
        fused_loss.fused_losses(hidden, weight, ids),
        functional.cross_entropy(functional.linear(hidden, weight), ids, reduction="none"),
    ):
        found.append((losses, *torch.autograd.grad((losses * scale).sum(), (hidden, weight))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory", ["fused", "plain"])
def test_a_model_learns_the_same_in_every_mode(tiny, memory: str) -> None:  # type: ignore[no-untyped-def]
    ids = torch.randint(4, 300, (2, 24), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(24).expand(2, -1)
    found = []
    for mode in ("chunks", memory):
        model = enable_token_losses(tiny.build_model("llama"), mode)
        losses = token_losses(model, ids, ids.roll(-1, 1), positions)
        losses.sum().backward()
        found.append([losses.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "is_fused"), [(torch.bfloat16, True), (torch.float16, False)])
def test_in_fp16_no_gradient_is_made_before_the_loss_is_scaled(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, is_fused: bool
) -> None:
    called = []

    def watch(*tensors: torch.Tensor) -> torch.Tensor:
        called.append(tensors)
        return fused_loss.fused_losses(*tensors)

    monkeypatch.setattr(loss, "fused_losses", watch)
    model = enable_token_losses(tiny.build_model("llama"), "fused")
    ids = torch.arange(24).reshape(1, 24) + 4
    with torch.autocast("cpu", dtype):
        token_losses(model, ids, ids.roll(-1, 1), torch.arange(24)[None])
    assert bool(called) is is_fused
