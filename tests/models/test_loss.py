"""The chunked, summed loss against the plain one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from biomedllama_cli.models import fused_loss
from biomedllama_cli.models import loss as loss_module
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses, token_losses

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": None,
}


def _batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    input_ids = torch.randint(4, 300, (2, 24), generator=generator)
    labels = torch.randint(4, 300, (2, 24), generator=generator)
    labels[0, 5] = -100
    labels[1, 20:] = -100
    positions = torch.cat([torch.arange(9), torch.arange(15)]).expand(2, -1)
    return input_ids, labels, positions


def _reference(model: Any) -> torch.Tensor:
    input_ids, labels, positions = _batch()
    logits = model(input_ids=input_ids, position_ids=positions, use_cache=False).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")


def _assert_equal(model: Any, kind: str = "fused") -> None:
    """Compare value and gradients of `model` with those of an untouched copy."""
    plain = copy.deepcopy(model)
    expected = _reference(plain)
    expected.backward()
    loss_sum = token_losses(enable_token_losses(model, kind), *_batch()).sum()
    loss_sum.backward()
    assert loss_sum.dtype == torch.float32
    torch.testing.assert_close(loss_sum, expected, rtol=1e-6, atol=0)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None, name
        scale = theirs.grad.abs().max()
        torch.testing.assert_close(ours.grad / scale, theirs.grad / scale, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("tokens_per_chunk", [1000, 43, 10, 1])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("kind", ["fused", "chunks"])
def test_value_and_gradients_equal_the_plain_loss(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, kind: str, family: str, tokens_per_chunk: int
) -> None:
    model = tiny.build_model(family)
    rows = model.get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", rows * tokens_per_chunk)
    monkeypatch.setattr(fused_loss, "TOKENS_PER_CHUNK", tokens_per_chunk)
    _assert_equal(model.train(), kind)


def test_capped_logits_are_capped_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 300 * 10)
    config = Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0)
    model = Gemma2ForCausalLM._from_config(config, attn_implementation="eager")
    uncapped = copy.deepcopy(model)
    uncapped.config.final_logit_softcapping = None
    assert abs(_reference(model) - _reference(uncapped)) > 1
    _assert_equal(model)


def test_logits_scaled_in_another_way_take_the_model_s_own_forward() -> None:
    config = GraniteConfig(**SMALL, logits_scaling=7.0)
    model = GraniteForCausalLM(config)
    unscaled = copy.deepcopy(model)
    unscaled.config.logits_scaling = 1.0
    assert abs(_reference(model) - _reference(unscaled)) > 1
    _assert_equal(model)


@pytest.mark.parametrize(("kind", "training"), [("fused", True), ("chunks", True), ("chunks", False)])
def test_the_logits_of_a_batch_never_exist_at_once(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, kind: str, training: bool
) -> None:
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape[-1:] == (300,):
                Largest.numbers = max(Largest.numbers, result.numel())
            return result

    # 35 of 43 targets: more numbers than the gradient of the output table has (32 x 300).
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 300 * 35)
    monkeypatch.setattr(fused_loss, "TOKENS_PER_CHUNK", 35)
    model = enable_token_losses(tiny.build_model("llama").train(training), kind)
    with Largest():
        loss_sum = token_losses(model, *_batch()).sum()
        loss_sum.backward()
    assert Largest.numbers == 300 * 35


def test_a_batch_without_targets_costs_nothing_and_reaches_every_parameter(tiny: Any) -> None:
    model = enable_token_losses(tiny.build_model("llama"))
    input_ids, labels, positions = _batch()
    loss_sum = token_losses(model, input_ids, torch.full_like(labels, -100), positions).sum()
    loss_sum.backward()
    assert loss_sum.item() == 0
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_documents_stay_apart_in_the_loss(tiny: Any) -> None:
    model = enable_token_losses(tiny.build_model("llama"))
    input_ids, labels, positions = _batch()
    whole = token_losses(model, input_ids, labels, positions)
    parts = [
        token_losses(model, input_ids[:, part], labels[:, part], positions[:, part])
        for part in (slice(0, 9), slice(9, 24))
    ]
    torch.testing.assert_close(whole, torch.cat(parts, dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["fused", "chunks"])
def test_every_token_has_its_own_loss_in_its_place(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 300 * 10)
    monkeypatch.setattr(fused_loss, "TOKENS_PER_CHUNK", 10)
    model = tiny.build_model("llama")
    input_ids, labels, positions = _batch()
    logits = model(input_ids=input_ids, position_ids=positions, use_cache=False).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(
        labels
    )
    losses = token_losses(enable_token_losses(model, kind), input_ids, labels, positions)
    assert (labels == -100).any()
    assert not losses[labels == -100].any()
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["fused", "chunks"])
def test_bf16_autocast_sums_in_fp32(tiny: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 300 * 10)
    monkeypatch.setattr(fused_loss, "TOKENS_PER_CHUNK", 10)
    model = tiny.build_model("llama")
    expected = _reference(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_sum = token_losses(enable_token_losses(model, kind), *_batch()).sum()
    loss_sum.backward()
    assert loss_sum.dtype == torch.float32
    assert abs(loss_sum - expected) / expected < 0.02
    assert loss_sum.to(torch.bfloat16).float() != loss_sum  # finer than bf16 can be


def test_the_model_stays_a_plain_transformers_model(tiny: Any, tmp_path: Path) -> None:
    model = tiny.build_model("llama")
    names = list(model.state_dict())
    assert enable_token_losses(enable_token_losses(model)) is model
    assert list(model.state_dict()) == names
    input_ids, labels, positions = _batch()
    expected = model(input_ids=input_ids).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(load_model(str(tmp_path))(input_ids=input_ids).logits, expected)
    token_losses(model, input_ids, labels, positions)


def test_a_copy_trains_its_own_weights(tiny: Any) -> None:
    model = enable_token_losses(tiny.build_model("llama"))
    copied = copy.deepcopy(model)
    token_losses(copied, *_batch()).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in copied.parameters())
