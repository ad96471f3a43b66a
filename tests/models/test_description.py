"""What multiplies a token in models with experts."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from biomedllama_cli.models.description import describe_model

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def build(kind: str, **changes: Any) -> PreTrainedModel:
    """Return a model without numbers."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **changes))
    return model


def test_mixtral_multiplies_by_the_thirteen_billion_weights_that_it_is_known_for() -> None:
    facts = describe_model(build("mixtral"))  # whose defaults are 8x7B
    assert round(facts.parameters / 1e9, 1) == 46.7
    assert round((facts.matmul_parameters + 32_000 * 4096) / 1e9, 1) == 12.9


@pytest.mark.parametrize(
    ("kind", "changes", "idle"),
    [
        ("qwen3_moe", {"num_experts": 8, "moe_intermediate_size": 16}, 2 * 6 * 3 * 32 * 16),
        (  # its first layer has no experts, and the shared one is none of those
            "deepseek_v3",
            {"n_routed_experts": 8, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 2},
            6 * 3 * 32 * 16,
        ),
        ("jamba", {"num_experts": 8}, 6 * 3 * 32 * 48),  # one layer is Mamba's
        ("llama", {}, 0),
    ],
)
def test_experts_that_a_token_is_not_sent_to_do_not_multiply(
    kind: str, changes: dict[str, Any], idle: int
) -> None:
    model = build(kind, **SMALL, num_experts_per_tok=2, **changes)
    facts = describe_model(model)
    assert facts.matmul_parameters == facts.parameters - 100 * 32 - idle
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert describe_model(model).frozen_matmul_parameters == facts.matmul_parameters


def test_a_model_that_does_not_say_how_many_experts_it_takes_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = build("mixtral", **SMALL)
    model.config.num_experts_per_tok = 0
    with caplog.at_level(logging.WARNING):
        facts = describe_model(model)
    assert facts.matmul_parameters == facts.parameters - 100 * 32
    assert "FLOPs are counted as if to all" in caplog.text
