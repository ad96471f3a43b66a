"""Stretched rotary positions: the same as plain transformers makes from the same configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, LlamaForCausalLM

from biomedllama_cli.errors import ModelError, SettingsError
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.rope import check_stretched, stretch_model, stretch_positions
from biomedllama_cli.settings.pretrain import PositionsSettings

POSITIONS, LENGTH = 32, 96
IDS = torch.arange(LENGTH)[None] % 50
OWN = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "yarn": {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": POSITIONS},
    "llama3": {
        "rope_type": "llama3",
        "factor": 3.0,
        "original_max_position_embeddings": POSITIONS,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}


def build(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    positions = {"max_position_embeddings": POSITIONS, **changes}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **shape, **positions)).eval()


@torch.no_grad()
def score(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_a_stretched_model_is_that_of_plain_transformers(kind: str, tmp_path: Path) -> None:
    model = build()
    before = score(model)
    stretch_model(model, PositionsSettings(rope_scaling=kind, rope_theta=5e4), LENGTH)
    expected = build(max_position_embeddings=LENGTH, rope_parameters={"rope_theta": 5e4, **OWN[kind]})
    assert torch.equal(score(model), score(expected))
    assert not torch.allclose(score(model), before, atol=1e-5)
    assert model.config.max_position_embeddings == LENGTH
    model.save_pretrained(tmp_path)
    for load in (AutoModelForCausalLM.from_pretrained, lambda folder: load_model(str(folder))):
        assert torch.equal(score(load(tmp_path).eval()), score(model))


def test_a_larger_base_alone_reaches_the_length() -> None:
    model = build()
    stretch_model(model, PositionsSettings(rope_theta=1e6), LENGTH)
    expected = build(rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    assert torch.equal(score(model), score(expected))
    assert model.config.max_position_embeddings == LENGTH


def test_nothing_changes_where_nothing_is_asked() -> None:
    model = build()
    before = score(model)
    stretch_model(model, PositionsSettings(), LENGTH)
    assert torch.equal(score(model), before)
    assert model.config.max_position_embeddings == POSITIONS


@pytest.mark.parametrize(
    ("settings", "length", "says"),
    [
        ({"rope_scaling": "yarn"}, POSITIONS, "within the model's 32 positions"),
        ({"rope_scaling": "yarn", "rope_factor": 2}, LENGTH, "must be at least 3"),
        ({"rope_scaling": "linear", "rope_factor": 0.5}, 8, "must be at least 1"),
        ({"rope_factor": 2}, LENGTH, "needs positions.rope_scaling"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], length: int, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        stretch_positions(build().config, PositionsSettings(**settings), length)


def test_positions_are_stretched_once() -> None:
    model = build()
    stretch_model(model, PositionsSettings(rope_scaling="linear"), LENGTH)
    with pytest.raises(ModelError, match="stretched already"):
        stretch_model(model, PositionsSettings(rope_scaling="linear"), 4 * LENGTH)


def test_positions_of_another_kind_are_refused(tiny: Any) -> None:
    with pytest.raises(ModelError, match="no rotary positions of one kind"):
        stretch_model(tiny.build_model("gemma3"), PositionsSettings(rope_scaling="linear"), 10_000)


def test_a_checkpoint_keeps_its_positions() -> None:
    model = build()
    stretch_model(model, PositionsSettings(rope_scaling="yarn"), LENGTH)
    check_stretched(model.config, PositionsSettings(rope_scaling="yarn"))
    check_stretched(model.config, PositionsSettings())
    for other in (
        {"rope_scaling": "linear"},
        {"rope_scaling": "yarn", "rope_factor": 8},
        {"rope_theta": 5e5},
    ):
        with pytest.raises(SettingsError, match="other rotary positions"):
            check_stretched(model.config, PositionsSettings(**other))


def test_a_checkpoint_without_one_kind_of_positions_is_refused_in_words(tiny: Any) -> None:
    asked = PositionsSettings(rope_scaling="yarn")
    with pytest.raises(SettingsError, match=r"other rotary positions \(of several kinds\)"):
        check_stretched(tiny.build_model("gemma3").config, asked)
    with pytest.raises(SettingsError, match=r"other rotary positions \(none\)"):
        check_stretched(GPT2Config(), asked)
