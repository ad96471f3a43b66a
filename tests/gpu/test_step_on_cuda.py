"""A training step on a CUDA device against the same step on the CPU: losses, gradient norms and updated weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from biomedllama_cli.engine.layer_compiler import find_compile_obstacle

STEPS = 4


def run(trainee: Any, train: Any) -> tuple[list[Any], torch.Tensor]:
    """Train some steps and return what they measured, and how the weights moved."""
    before = [parameter.detach().cpu().clone() for parameter in trainee.model.parameters()]
    steps, after = train(trainee, STEPS), trainee.model.parameters()
    moved = [(new.detach().cpu() - old).flatten() for new, old in zip(after, before, strict=True)]
    return steps, torch.cat(moved)


def compare(ours: Any, reference: Any, tolerance: float) -> None:
    """Hold losses, gradient norms and how the weights moved against each other."""
    for one, expected in zip(ours[0], reference[0], strict=True):
        assert one.was_accepted
        assert one.loss == pytest.approx(expected.loss, rel=tolerance)
        assert one.grad_norm == pytest.approx(expected.grad_norm, rel=10 * tolerance)
    moved, expected_moved = ours[1], reference[1]
    assert torch.nn.functional.cosine_similarity(moved, expected_moved, dim=0) > 1 - 20 * tolerance
    assert float(moved.norm()) == pytest.approx(float(expected_moved.norm()), rel=20 * tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 5e-3), ("fp16", 5e-3)])
def test_fused_adamw_moves_weights_as_on_the_cpu(
    precision: str, tolerance: float, build: Any, train: Any, device: torch.device
) -> None:
    reference = run(build("cpu", precision="bf16" if precision == "bf16" else "fp32"), train)
    compare(run(build(device.type, precision=precision), train), reference, tolerance)


@pytest.mark.parametrize("loss_memory", ["chunks", "fused", "plain"])
def test_every_way_to_the_loss_gives_the_loss(
    loss_memory: str, build: Any, train: Any, device: torch.device
) -> None:
    reference = run(build("cpu", precision="bf16", loss_memory="plain"), train)
    compare(run(build(device.type, precision="bf16", loss_memory=loss_memory), train), reference, 5e-3)


@pytest.mark.parametrize("recomputed", ["none", "full"])
def test_compiled_layers_train_alike(recomputed: str, build: Any, train: Any, device: torch.device) -> None:
    if obstacle := find_compile_obstacle(device.type):
        pytest.skip(obstacle)
    flags = {"precision": "bf16", "activation_checkpointing": recomputed}
    reference = run(build(device.type, **flags), train)
    compare(run(build(device.type, compile=True, **flags), train), reference, 5e-3)


def test_fused_loss_equals_ligers(device: torch.device) -> None:
    liger = pytest.importorskip("liger_kernel.transformers", reason="liger-kernel is not installed")
    from biomedllama_cli.models.fused_loss import fused_losses

    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator) / 8 for shape in ((600, 64), (1000, 64))]
    ids = torch.randint(0, 1000, (600,), generator=generator).to(device)
    results = []
    for is_ours in (True, False):
        hidden, weight = (part.to(device).requires_grad_() for part in drawn)
        if is_ours:
            loss = fused_losses(hidden, weight, ids).sum()
        else:
            loss = liger.LigerFusedLinearCrossEntropyLoss(reduction="sum")(weight, hidden, ids)
        loss.backward()
        results.append((loss.detach(), hidden.grad, weight.grad))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_gradients_of_fp16_are_scaled_and_an_overflow_skips_the_update(
    build: Any, train: Any, device: torch.device
) -> None:
    trainee = build(device.type, precision="fp16")
    trainee.accelerator.scaler._init_scale = 2.0**60
    before = [parameter.detach().clone() for parameter in trainee.model.parameters()]
    (step,) = train(trainee, 1)
    assert not step.was_accepted
    assert math.isfinite(step.loss)
    for parameter, old in zip(trainee.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
