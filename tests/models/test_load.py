"""Models from configurations, folders and the hub."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    GptOssConfig,
    GptOssForCausalLM,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
)

from biomedllama_cli.errors import ModelError, UnavailableError
from biomedllama_cli.models import hub
from biomedllama_cli.models.load import build_scratch_config, describe_model, load_model, load_text_config


def test_the_7b_shape_has_the_parameters_of_llama_7b() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build_scratch_config("scratch:7b"))
    facts = describe_model(model)
    assert facts.parameters == 6_738_415_616
    assert facts.parameters_without_embeddings == 6_738_415_616 - 2 * 32_000 * 4096
    assert facts.matmul_parameters == 6_738_415_616 - 32_000 * 4096


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("15m", 14e6, 16e6), ("110m", 105e6, 115e6), ("1b", 1.05e9, 1.15e9)],
)
def test_named_shapes_are_as_large_as_their_names(name: str, low: float, high: float) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build_scratch_config(f"scratch:{name}"))
    assert low < describe_model(model).parameters < high


def test_a_tied_table_counts_once_and_multiplies() -> None:
    facts = describe_model(load_model("scratch:tiny", vocabulary_size=100))
    assert facts.parameters == facts.matmul_parameters == facts.parameters_without_embeddings + 100 * 32


def test_the_vocabulary_and_special_ids_come_from_the_caller() -> None:
    model = load_model("scratch:tiny", vocabulary_size=77, bos_id=5, eos_id=6)
    assert model.get_input_embeddings().weight.shape[0] == 77
    assert (model.config.bos_token_id, model.config.eos_token_id) == (5, 6)
    assert model.generation_config.eos_token_id == 6


def test_random_weights_follow_the_seed_and_leave_the_caller_s_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (load_model("scratch:tiny", vocabulary_size=50, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [model.get_input_embeddings().weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_unknown_configuration_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="scratch:8b") as caught:
        load_model("scratch:8b")
    assert "scratch:7b" in caught.value.hint


@pytest.mark.parametrize("attention", ["sdpa", "eager", "xformers"])
def test_the_attention_implementation_is_set(tiny_folder: Callable[[str], Path], attention: str) -> None:
    for source in ("scratch:tiny", str(tiny_folder("gemma3-wrapper"))):
        model = load_model(source, attention=attention)
        assert model.config._attn_implementation == attention
        assert model.base_model.config._attn_implementation == attention


def test_weights_get_the_wanted_dtype(tiny_folder: Callable[[str], Path]) -> None:
    for source in ("scratch:tiny", str(tiny_folder("llama")), str(tiny_folder("gemma3-wrapper"))):
        model = load_model(source, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ["llama", "llama3", "qwen3", "gemma3", "mistral"])
def test_a_folder_comes_back_as_it_was_saved(
    tiny: Any, tiny_folder: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    input_ids = torch.arange(20)[None]
    model = load_model(str(tiny_folder(family)))
    model.save_pretrained(tmp_path)
    plain, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(plain) is type(model)
    assert torch.equal(plain(input_ids).logits, model(input_ids).logits)
    assert (tmp_path / "generation_config.json").is_file()


def test_of_a_multimodal_gemma_only_the_text_part_is_loaded_and_saved(
    tiny: Any, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    input_ids = torch.arange(20)[None]
    wrapper = tiny.build_model("gemma3-wrapper", 330)
    model = load_model(str(tiny_folder("gemma3-wrapper")))
    assert type(model).__name__ == "Gemma3ForCausalLM"
    torch.testing.assert_close(model(input_ids).logits, wrapper(input_ids).logits)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Gemma3ForCausalLM"]
    assert not any("vision" in name for name in load_file(tmp_path / "model.safetensors"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain) is type(model)
    assert torch.equal(plain(input_ids).logits, model(input_ids).logits)
    # Tied still: training one table trains the other.
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model(input_ids).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_wrapper_that_transformers_lists_as_no_causal_model_works_too(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = MistralConfig(vocab_size=90, num_key_value_heads=2, head_dim=8, **shape)
    vision = PixtralVisionConfig(**shape, image_size=16, patch_size=8, head_dim=8)
    wrapper = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision))
    wrapper.eval().save_pretrained(tmp_path / "wrapper")
    model = load_model(str(tmp_path / "wrapper"))
    assert type(model).__name__ == "MistralForCausalLM"
    input_ids = torch.arange(20)[None]
    torch.testing.assert_close(model(input_ids).logits, wrapper(input_ids=input_ids).logits)
    model.save_pretrained(tmp_path / "text")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "text")
    assert torch.equal(plain(input_ids).logits, model(input_ids).logits)


def test_fewer_embeddings_than_pieces_is_refused_and_more_is_fine(tiny_folder: Callable[[str], Path]) -> None:
    folder = str(tiny_folder("qwen3"))  # 330 pieces, 342 rows
    load_model(folder, vocabulary_size=330)
    load_model(folder, vocabulary_size=342)
    with pytest.raises(ModelError, match="342 embeddings, fewer than the 343 pieces"):
        load_model(folder, vocabulary_size=343)


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "~/nothing", "a/b/c", "nothing/", ""])
def test_a_missing_folder_is_named(source: str) -> None:
    with pytest.raises(ModelError, match="is not a folder") as caught:
        load_model(source)
    assert "scratch:" not in caught.value.hint  # which not every command takes


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path))


def test_a_hub_id_offline_is_unavailable_with_a_way_out() -> None:
    with pytest.raises(UnavailableError, match="nobody/nothing") as caught:
        load_model("nobody/nothing")
    assert caught.value.hint == "Give a local folder, or go online once."


def test_the_text_configuration_is_that_of_the_loaded_model(tiny_folder: Callable[[str], Path]) -> None:
    for source in (str(tiny_folder("gemma3-wrapper")), str(tiny_folder("qwen3")), "scratch:tiny"):
        config = load_text_config(source)
        assert type(config) is type(load_model(source).config)
    with pytest.raises(UnavailableError, match="nobody/nothing"):
        load_text_config("nobody/nothing")
    with pytest.raises(ModelError, match="is not a folder"):
        load_text_config("./nothing")


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class NoNetwork:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise OSError("Name or service not known")

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the hub was asked by {name}")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_session", NoNetwork)
    monkeypatch.setattr("huggingface_hub.utils._http.get_session", NoNetwork)
    hub.is_hub_reachable.cache_clear()
    try:
        with pytest.raises(UnavailableError, match="nobody/nothing"):
            load_model("nobody/nothing")
    finally:
        hub.is_hub_reachable.cache_clear()
    assert len(asked) == 1


def test_a_folder_with_a_missing_tensor_is_refused_instead_of_filled_at_random(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"lacks the weights of 1 tensors, first model\.layers\.1\.mlp\.up_proj"
    ):
        load_model(str(folder))


def test_a_truncated_file_is_a_model_error(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("values", "kept"),
    [({"do_sample": False, "temperature": 0.6}, {"temperature": 0.6}), ({"early_stopping": True}, {})],
)
def test_a_generation_configuration_that_contradicts_itself_is_mended(
    tiny_folder: Callable[[str], Path], tmp_path: Path, values: dict[str, Any], kept: dict[str, Any]
) -> None:
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(ValueError, match=next(reversed(values))):
        GenerationConfig.from_pretrained(folder).validate(strict=True)
    load_model(str(folder)).save_pretrained(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    saved.validate(strict=True)
    assert saved.eos_token_id == 2
    for name, value in kept.items():
        assert getattr(saved, name) == value


def test_a_model_that_caps_its_attention_scores_gets_eager(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = Gemma2Config(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=None,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = load_model(str(tmp_path), attention="sdpa")
    assert model.config._attn_implementation == "eager"
    assert "caps its attention scores" in caplog.text


def test_a_model_with_attention_sinks_gets_eager(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An attention registered by name would be handed the sinks, and leave them out without a word."""
    shape = {
        "vocab_size": 60,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "head_dim": 8,
    }
    heads = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    }
    GptOssForCausalLM(GptOssConfig(**shape, **heads, layer_types=["full_attention"])).save_pretrained(
        tmp_path
    )
    with caplog.at_level(logging.WARNING):
        model = load_model(str(tmp_path), attention="documents")
    assert model.config._attn_implementation == "eager"
    assert "such as one with sinks" in caplog.text
    with pytest.raises(ModelError, match="split sequences"):
        load_model(str(tmp_path), attention="split")


def test_frozen_weights_are_counted_but_for_a_table_that_multiplies_nothing() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build_scratch_config("scratch:7b"))
    assert describe_model(model).frozen_matmul_parameters == 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("norm.weight"))
    facts = describe_model(model)
    norms = 65 * 4096
    assert facts.frozen_matmul_parameters == facts.matmul_parameters - norms


def test_weights_packed_by_four_bits_count_as_what_they_stand_for() -> None:
    class Params4bit(torch.nn.Parameter):
        """As bitsandbytes stores a quantised matrix: two weights in each byte, in one column."""

        bnb_quantized = True

    model = load_model("scratch:tiny", vocabulary_size=100)
    facts = describe_model(model)
    layer = model.model.layers[0].self_attn.q_proj
    packed = torch.zeros(layer.weight.numel() // 2, 1, dtype=torch.uint8)
    layer.weight = Params4bit(packed, requires_grad=False)
    again = describe_model(model)
    assert again.parameters == facts.parameters
    assert again.frozen_matmul_parameters == 2 * packed.numel()
