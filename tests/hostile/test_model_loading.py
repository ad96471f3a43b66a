"""Model folders of strangers run no code."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.load import load_model

CONFIG = LlamaConfig(
    vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
)


class _TouchesAFile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o755)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_without_effect(tmp_path: Path, zipped: bool) -> None:
    folder, effect = tmp_path / "model", tmp_path / "effect"
    CONFIG.save_pretrained(folder)
    weights = dict(LlamaForCausalLM(CONFIG).state_dict()) | {"extra": _TouchesAFile(effect)}
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))
    assert not effect.exists()
    # The trap is armed: an unrestricted unpickler does run it.
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert effect.exists()


def test_a_bare_pickle_in_place_of_weights_is_refused_without_effect(tmp_path: Path) -> None:
    folder, effect = tmp_path / "model", tmp_path / "effect"
    CONFIG.save_pretrained(folder)
    for name in ("pytorch_model.bin", "model.safetensors"):
        (folder / name).write_bytes(pickle.dumps(_TouchesAFile(effect)))
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_model(str(folder))
    assert not effect.exists()


def test_plain_tensors_in_a_bin_file_load(tmp_path: Path) -> None:
    model = LlamaForCausalLM(CONFIG)
    CONFIG.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = load_model(str(tmp_path))
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_safetensors_are_preferred_to_a_pickle_beside_them(tmp_path: Path) -> None:
    folder, effect = tmp_path / "model", tmp_path / "effect"
    LlamaForCausalLM(CONFIG).save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_TouchesAFile(effect)))
    load_model(str(folder))
    assert not effect.exists()


@pytest.mark.parametrize("model_type", ["llama", "something_new"])
def test_code_inside_a_model_folder_is_never_run(tmp_path: Path, model_type: str) -> None:
    folder, effect = tmp_path / "model", tmp_path / "effect"
    LlamaForCausalLM(CONFIG).save_pretrained(folder)
    code = f"import os\nos.mkdir({str(effect)!r})\nclass Config: pass\nclass Model: pass\n"
    (folder / "modeling_planted.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = model_type
    config["auto_map"] = {
        "AutoConfig": "modeling_planted.Config",
        "AutoModelForCausalLM": "modeling_planted.Model",
    }
    (folder / "config.json").write_text(json.dumps(config))
    if model_type == "llama":
        assert type(load_model(str(folder))) is LlamaForCausalLM  # transformers' own class
    else:
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_model(str(folder))
    assert not effect.exists()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"model_type": "llama", "hidden_size": "many"}', '{"model_type": 7}', "\x00\x00"],
)
def test_a_broken_configuration_is_a_model_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("named", "index"),
    [
        ("other.safetensors.index.json", {"w": "../private/model.safetensors"}),
        ("../private/model.safetensors", {}),
        ("weights.bin", {}),
        (None, {"w": "..\\private\\model.safetensors"}),
    ],
)
def test_weights_elsewhere_are_refused_whatever_names_them(
    tmp_path: Path, named: str | None, index: dict[str, str]
) -> None:
    model = LlamaForCausalLM(CONFIG)
    model.save_pretrained(tmp_path / "private")
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"transformers_weights": named}))
    if index:
        path = tmp_path / "model" / "other.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    with pytest.raises(ModelError, match=r"may only name (a safetensors|\.safetensors) file"):
        load_model(str(tmp_path / "model"))
