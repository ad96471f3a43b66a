"""Which architectures keep the documents of a row apart."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from biomedllama_cli.models.attention_names import register_attention
from biomedllama_cli.models.document_attention import DOCUMENT_ATTENTION
from biomedllama_cli.models.document_masking import keeps_documents_apart, tell_where_documents_meet
from biomedllama_cli.models.load import load_model

LAYERS = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "shape", "attention", "is_apart"),
    [
        ("llama", {**LAYERS, "intermediate_size": 64}, "sdpa", True),
        ("llama", {**LAYERS, "intermediate_size": 64}, "eager", True),
        ("gpt2", {"n_layer": 2, "n_embd": 32, "n_head": 2}, "sdpa", True),
        ("gemma3_text", {**LAYERS, "intermediate_size": 64, "num_key_value_heads": 2}, "sdpa", True),
        ("opt", {**LAYERS, "ffn_dim": 64, "word_embed_proj_dim": 32}, "sdpa", False),
        ("bloom", {"n_layer": 2, "hidden_size": 32, "n_head": 2}, "eager", False),
    ],
)
def test_architectures_that_let_documents_meet_are_told(
    kind: str, shape: dict[str, Any], attention: str, is_apart: bool, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=50, bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()
    assert keeps_documents_apart(model) is is_apart
    assert model.training
    with caplog.at_level(logging.WARNING):
        tell_where_documents_meet(model)
    assert ("does not keep the documents of a row apart" in caplog.text) is not is_apart


@pytest.mark.parametrize("attention", ["xformers", "flex", "flash_attention_2", "split"])
def test_what_needs_another_device_is_tried_with_sdpa(
    attention: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = register_attention(attention)
    torch.manual_seed(0)
    for kind, shape, is_apart in (
        ("llama", {**LAYERS, "intermediate_size": 64}, True),
        ("opt", {**LAYERS, "ffn_dim": 64, "word_embed_proj_dim": 32}, False),
    ):
        config = AutoConfig.for_model(kind, vocab_size=50, bos_token_id=1, pad_token_id=0, **shape)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=name)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            tell_where_documents_meet(model)
        assert ("does not keep the documents of a row apart" in caplog.text) is not is_apart
        assert {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} == {
            name
        }


def test_the_attention_of_documents_is_tried_too() -> None:
    model = load_model(
        "scratch:tiny", attention=DOCUMENT_ATTENTION, vocabulary_size=50, bos_id=None, eos_id=2, seed=0
    )
    assert keeps_documents_apart(model)
