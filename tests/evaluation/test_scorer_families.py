"""Whatever the architecture, shared scores are those of plain transformers, sequence by sequence."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from scorer_reference import make_mixed, score_all_alone
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from biomedllama_cli.evaluation.scorer import SharedPrefixScorer

CONTEXT = 100

LLAMA = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
WINDOW = {"sliding_window": 16}
SLIDING = ["sliding_attention", "full_attention"]
SSM = {"state_size": 4, "conv_kernel": 4}

SHARED: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen2 with a window in some layers": LLAMA
    | WINDOW
    | {"use_sliding_window": True, "layer_types": SLIDING},
    "qwen3": LLAMA,
    "phi": {"intermediate_size": 64},
    "phi3": LLAMA | {"pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {"intermediate_size": 64},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
        "num_heads": 4,
        "num_layers": 2,
    },
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "biogpt": {"intermediate_size": 64},
    "falcon": {"alibi": False},
    "gemma2": LLAMA | WINDOW | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0},
    "gemma3_text": LLAMA | WINDOW | {"layer_types": SLIDING},
    "cohere": LLAMA | {"logit_scale": 0.5, "pad_token_id": 0},
    "granite": LLAMA | {"logits_scaling": 4.0},
    "olmo2": LLAMA,
    "stablelm": LLAMA,
    "starcoder2": LLAMA,
    "mixtral": LLAMA | {"num_local_experts": 4},
    "qwen2_moe": LLAMA
    | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4},
}
"""Architectures whose prefixes are shared and whose preambles are kept."""

BY_WINDOW: dict[str, dict[str, Any]] = {"mistral": LLAMA | {"sliding_window": 90}}
"""Inputs above the window are read one by one, because one mask serves all layers."""

PLAIN: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({"n_head": 4, "n_layer": 2}, "takes no positions"),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2}, "takes no positions"),
    "falcon": ({"alibi": True}, "ALiBi"),
    "mamba": (SSM, "carries a state"),
    "mamba2": (SSM | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}, "carries a state"),
    "rwkv": ({"attention_hidden_size": 32, "intermediate_size": 64}, "carries a state"),
    "recurrent_gemma": (LLAMA | {"lru_width": 32, "attention_window_size": 16}, "carries a state"),
    "jamba": (LLAMA | {"use_mamba_kernels": False, "mamba_d_state": 4}, "carries a state"),
}
"""Architectures that are read sequence by sequence, and what is said about it."""


def build(name: str, options: dict[str, Any]) -> PreTrainedModel:
    kind = name.split()[0]
    common = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    common |= {"max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1}
    config = AutoConfig.for_model(kind, **common | options)
    torch.manual_seed(0)
    attention = "eager" if kind in ("gemma2", "gpt_neo", "gptj") else None
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # so that options differ by whole nats
    return model


def largest_difference(model: PreTrainedModel, scorer: SharedPrefixScorer) -> float:
    groups = make_mixed()
    plain = score_all_alone(model, groups, CONTEXT)
    shared = dict(scorer.score(groups))
    assert set(shared) == set(plain)
    return max(
        abs(one.value - value)
        for number, values in plain.items()
        for one, value in zip(shared[number], values, strict=True)
    )


@pytest.mark.parametrize("name", SHARED)
def test_family_is_shared_with_the_scores_of_plain_rows(name: str) -> None:
    model = build(name, SHARED[name])
    scorer = SharedPrefixScorer(model, context_length=CONTEXT, row_tokens=128)
    assert (scorer.support.shares, scorer.support.caches, scorer.support.reasons) == (True, True, ())
    assert largest_difference(model, scorer) < 1e-4


@pytest.mark.parametrize("name", BY_WINDOW)
def test_window_over_all_layers_is_shared_below_it(name: str) -> None:
    model = build(name, BY_WINDOW[name])
    scorer = SharedPrefixScorer(model, context_length=CONTEXT, row_tokens=128)
    assert (scorer.support.shares, scorer.support.caches) == (True, True)
    assert "more than 90 tokens" in scorer.support.reasons[0]
    assert largest_difference(model, scorer) < 1e-4


@pytest.mark.parametrize("name", PLAIN)
def test_family_that_cannot_share_is_scored_plainly_and_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    options, said = PLAIN[name]
    model = build(name, options)
    with caplog.at_level(logging.WARNING, logger="biomedllama_cli"):
        scorer = SharedPrefixScorer(model, context_length=CONTEXT, batch_size=3)
    assert (scorer.support.shares, scorer.support.caches) == (False, False)
    assert said in scorer.support.reasons[0]
    assert [record.message for record in caplog.records].count(f"scoring: {scorer.support.reasons[0]}") == 1
    assert largest_difference(model, scorer) < 1e-4
