"""Folders of adapters: read by plain peft and transformers, merged without loss, and refused where they do not fit."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import adapted
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from biomedllama_cli.errors import DataError, ModelError, OutputError
from biomedllama_cli.models.adapter_folder import find_tokenizer_source
from biomedllama_cli.models.adapters import adapter_base, add_adapter, load_adapter_weights, merge_adapter
from biomedllama_cli.models.identity import hash_weights
from biomedllama_cli.models.load import load_model, load_text_config
from biomedllama_cli.settings.tuning import AdapterSettings

FILES = {"adapter_config.json", "adapter_model.safetensors", "base_model.json"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted.build_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return adapted.save_trained(adapted.build_adapted(base), tmp_path / "adapter")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_peft_and_transformers_read_a_saved_adapter(base: Path, tmp_path: Path, method: str) -> None:
    from peft import PeftModel

    model = adapted.build_adapted(base, method=method)
    folder = adapted.save_trained(model, tmp_path / "adapter")
    assert {path.name for path in folder.iterdir()} == FILES
    expected = adapted.logits(model)
    assert (expected - adapted.logits(load_model(str(base)))).abs().max() > 0.1
    by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    assert torch.equal(adapted.logits(by_peft), expected)
    if method == "lora":  # transformers 5.23 does not find DoRA's magnitudes in peft's own files
        assert torch.equal(adapted.logits(AutoModelForCausalLM.from_pretrained(folder)), expected)


def test_equal_adapters_have_equal_files(base: Path, tmp_path: Path) -> None:
    first, second = (adapted.save_trained(adapted.build_adapted(base), tmp_path / name) for name in "ab")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert json.loads((first / "adapter_config.json").read_text())["target_modules"] == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_loaded_adapter_is_a_plain_merged_model(base: Path, tmp_path: Path, method: str) -> None:
    model = adapted.build_adapted(base, method=method)
    folder = str(adapted.save_trained(model, tmp_path / "adapter"))
    merged = load_model(folder)
    assert merged.state_dict().keys() == load_model(str(base)).state_dict().keys()
    assert adapted.difference(adapted.logits(merged), adapted.logits(model)) < 1e-5
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert type(load_text_config(folder)) is type(model.config)
    assert adapter_base(Path(folder)) == str(base)
    assert adapter_base(base) is None


def test_merging_into_bf16_rounds_once(base: Path, adapter: Path) -> None:
    merged, exact = load_model(str(adapter), dtype=torch.bfloat16), load_model(str(adapter))
    plain = load_model(str(base), dtype=torch.bfloat16)
    name = "model.layers.0.mlp.up_proj.weight"
    found, rounded_base = merged.state_dict()[name], plain.state_dict()[name].float()
    delta = exact.state_dict()[name] - load_model(str(base)).state_dict()[name]
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert torch.allclose(found.float(), (rounded_base + delta).bfloat16().float(), rtol=2**-8)


@pytest.mark.parametrize("tied", [True, False])
def test_a_merged_folder_is_a_whole_model_with_its_tokenizer(tmp_path: Path, tied: bool) -> None:
    base = adapted.build_base(tmp_path / "base", tied=tied)
    model = adapted.build_adapted(base)
    adapter = adapted.save_trained(model, tmp_path / "adapter")
    for _ in range(2):  # the second time it is replaced
        folder = merge_adapter(adapter, tmp_path / "merged")
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # whoever may read one may read all
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert adapted.difference(adapted.logits(merged), adapted.logits(model)) < 1e-5
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) == (not tied)
    assert AutoTokenizer.from_pretrained(folder)("w3")["input_ids"] == [5]
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter", "merged"}
    assert not (folder / "adapter_config.json").exists()


def test_an_interrupted_merge_leaves_the_old_folder(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = merge_adapter(adapter, tmp_path / "merged")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(source: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("biomedllama_cli.models.adapter_merge.load_tokenizer", fail)
    with pytest.raises(OSError, match="No space"):
        merge_adapter(adapter, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_merging_never_replaces_what_is_no_model(base: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "text").touch()
    with pytest.raises(OutputError, match="no model"):
        merge_adapter(adapter, tmp_path / "notes")
    with pytest.raises(ModelError, match="no adapter"):
        merge_adapter(base, tmp_path / "merged")


@pytest.mark.parametrize("targets", [["lm_head", "q_proj"], ["embed_tokens", "q_proj"]])
def test_an_adapter_of_a_tied_table_unties_it(base: Path, tmp_path: Path, targets: list[str]) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=targets, use_rslora=True, init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    folder = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert adapted.difference(adapted.logits(again), adapted.logits(model)) < 1e-5
    assert again.lm_head.weight is not again.model.embed_tokens.weight


def test_a_module_trained_whole_is_merged_too(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = adapted.build_base(tmp_path / "base", tied=False)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.base_model.model.lm_head.modules_to_save["default"].weight.data *= 2
    model.save_pretrained(tmp_path / "adapter")
    merged = load_model(str(tmp_path / "adapter"))
    assert adapted.difference(adapted.logits(merged), adapted.logits(model)) < 1e-5


def test_training_goes_on_from_a_saved_adapter(base: Path, adapter: Path) -> None:
    model = load_model(str(base))
    add_adapter(model, AdapterSettings(method="lora", rank=4, alpha=8.0), seed=5)
    load_adapter_weights(model, adapter)
    assert torch.equal(adapted.logits(model), adapted.logits(adapted.build_adapted(base)))
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"rank": 8}, "r 4"), ({"alpha": 4.0}, "lora_alpha 8"), ({"method": "dora"}, "use_dora")],
)
def test_other_settings_do_not_continue_an_adapter(
    base: Path, adapter: Path, changes: dict[str, Any], named: str
) -> None:
    model = load_model(str(base))
    settings = AdapterSettings(**{"method": "lora", "rank": 4, "alpha": 8.0} | changes)
    add_adapter(model, settings, seed=0)
    with pytest.raises(DataError, match=f"made with {named}"):
        load_adapter_weights(model, adapter)


def test_a_base_that_is_gone_is_told_and_may_be_named_anew(tmp_path: Path) -> None:
    base = adapted.build_base(tmp_path / "base")
    adapter = adapted.save_trained(adapted.build_adapted(base), tmp_path / "adapter")
    base.rename(tmp_path / "elsewhere")
    for load in (load_model, load_text_config, find_tokenizer_source):
        with pytest.raises(ModelError, match=r"was trained on .*base, which is not there") as error:
            load(str(adapter))
        assert "base_model_name_or_path" in error.value.hint
    change_config(adapter, base_model_name_or_path="../elsewhere")  # also beside the adapter
    load_model(str(adapter))
    assert find_tokenizer_source(str(adapter)) == str(adapter / "../elsewhere")
    adapted.build_tokenizer(adapter)
    assert find_tokenizer_source(str(adapter)) == str(adapter)


def test_another_base_is_found_out_by_its_weights(tmp_path: Path) -> None:
    base = adapted.build_base(tmp_path / "base")
    adapter = adapted.save_trained(adapted.build_adapted(base), tmp_path / "adapter")
    adapted.build_base(base, seed=1)
    with pytest.raises(ModelError, match="other weights than those now in"):
        load_model(str(adapter))
    model = load_model(str(base))
    add_adapter(model, AdapterSettings(method="lora", rank=4, alpha=8.0), seed=0)
    with pytest.raises(ModelError, match="other weights"):
        load_adapter_weights(model, adapter)


def test_weights_of_an_adapter_are_told_apart_by_its_own_and_by_its_base(tmp_path: Path) -> None:
    base = adapted.build_base(tmp_path / "base")
    model = adapted.build_adapted(base)
    adapter = adapted.save_trained(model, tmp_path / "adapter")
    first = hash_weights(adapter)
    assert first not in (None, hash_weights(base))
    model.model.layers[0].mlp.up_proj.lora_B["default"].weight.data += 1
    second = hash_weights(adapted.save_trained(model, adapter))
    adapted.build_base(base, seed=1)
    assert len({first, second, hash_weights(adapter)}) == 3


def test_an_adapter_of_another_model_is_refused(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(iter(tensors))
    (adapter / "base_model.json").unlink()
    save_file(tensors | {name: tensors[name][:, :1].contiguous()}, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="cannot be used with"):
        load_model(str(adapter))
    lacking = {key: tensor for key, tensor in tensors.items() if key != name}
    for wrong in (lacking, tensors | {"base_model.model.lm_head.weight": torch.ones(1)}):
        save_file(wrong, adapter / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="does not fit its base"):
            load_model(str(adapter))


def test_broken_weights_are_a_model_error(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: tensor * float("nan") for name, tensor in tensors.items()},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError, match="NaN"):
        load_model(str(adapter))
    (adapter / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ModelError, match="cannot be used"):
        load_model(str(adapter))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "type IA3"),
        ({"megatron_config": {"a": 1}, "megatron_core": "planted"}, "sets megatron_co"),
        ({"init_lora_weights": "pissa"}, "sets init_lora_weights"),
        ({"layer_replication": [[0, 1]]}, "sets layer_replication"),
        ({"base_model_name_or_path": None}, "does not say which model"),
        ({"base_model_name_or_path": 7}, "does not say which model"),
        ({"r": "many"}, "cannot be used|broken"),
        ({"target_modules": ["nothing"]}, "cannot be used|does not fit"),
    ],
)
def test_a_description_that_is_not_plain_lora_is_refused(
    adapter: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(adapter, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(str(adapter))


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00"])
def test_a_broken_description_is_a_model_error(adapter: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        load_model(str(adapter))


class _TouchesAFile:
    """Unpickling it creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o755)


def test_a_pickled_adapter_is_refused_without_effect(base: Path, adapter: Path, tmp_path: Path) -> None:
    effect = tmp_path / "effect"
    pickled = pickle.dumps(_TouchesAFile(effect))
    (adapter / "adapter_model.bin").write_bytes(pickled)
    load_model(str(adapter))  # the safetensors beside it are read
    (adapter / "adapter_model.safetensors").rename(tmp_path / "kept")
    with pytest.raises(ModelError, match="only a pickle"):
        load_model(str(adapter))
    (tmp_path / "kept").rename(adapter / "adapter_model.safetensors")
    shutil.copytree(base, adapter, dirs_exist_ok=True)
    with pytest.raises(ModelError, match="a whole model and an adapter"):
        load_model(str(adapter))
    assert not effect.exists()
    pickle.loads(pickled)
    assert effect.exists(), "the trap is armed"


def test_adapters_are_not_nested(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "second")
    change_config(tmp_path / "second", base_model_name_or_path=str(adapter))
    with pytest.raises(ModelError, match="is an adapter itself"):
        load_model(str(tmp_path / "second"))
