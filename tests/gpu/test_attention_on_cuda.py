"""xformers, flex and FlashAttention on a CUDA device against eager attention, on rows of several documents."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from biomedllama_cli.errors import UnavailableError
from biomedllama_cli.models.attention import resolve_attention
from biomedllama_cli.models.attention_names import check_attention, register_attention

FAMILIES = ("llama", "llama3", "qwen2", "qwen3", "gemma3", "mistral")
KINDS = ("xformers", "flex", "flash_attention_2", "documents", "sdpa")


def choose(name: str, device: torch.device) -> str:
    """Return the implementation, or skip with what keeps it from running here."""
    try:
        check_attention(name, device, torch.bfloat16)
        resolve_attention(name, device, torch.bfloat16)
    except UnavailableError as error:
        pytest.skip(str(error))
    return register_attention(name)


def run(
    family: str, name: str, batch: dict[str, torch.Tensor], device: torch.device, *, half: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and the gradients of all weights."""
    model = tiny.build_model(family).to(device).train()
    model.set_attn_implementation(name)
    inputs = {key: batch[key].to(device) for key in ("input_ids", "position_ids")}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        logits = model(**inputs, use_cache=False).logits
    logits.float().square().mean().backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return logits.detach().float().flatten(), torch.cat(gradients)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", KINDS)
def test_outputs_and_gradients_are_as_near_to_fp32_as_eagers(
    name: str, family: str, packed: dict[str, torch.Tensor], device: torch.device
) -> None:
    implementation = choose(name, device)
    exact = run(family, "eager", packed, device, half=False)
    eager, ours = (run(family, one, packed, device) for one in ("eager", implementation))
    for one, other, expected in zip(ours, eager, exact, strict=True):
        assert (one - expected).norm() < 1.5 * (other - expected).norm() + 0.01 * expected.norm()


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_no_token_sees_another_document(
    name: str, packed: dict[str, torch.Tensor], device: torch.device
) -> None:
    implementation = choose(name, device)
    model = tiny.build_model("llama3").to(device)
    model.set_attn_implementation(implementation)
    changed = {key: part.clone() for key, part in packed.items()}
    changed["input_ids"][:, :150] = 5  # the first document of row 0, and a part of that of row 1
    logits: list[Any] = []
    for batch in (packed, changed):
        inputs = {key: batch[key].to(device) for key in ("input_ids", "position_ids")}
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits.append(model(**inputs, use_cache=False).logits.float())
    assert torch.equal(logits[0][0, 150:], logits[1][0, 150:])
    assert torch.equal(logits[0][1, 200:], logits[1][1, 200:])
    assert not torch.equal(logits[0][1, 150:200], logits[1][1, 150:200])


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("name", KINDS)
def test_recomputed_activations_change_nothing(
    name: str, mode: str, build: Any, train: Any, device: torch.device
) -> None:
    choose(name, device)
    losses = [
        [step.loss for step in train(build(device.type, attention=name, activation_checkpointing=one), 3)]
        for one in ("none", mode)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
