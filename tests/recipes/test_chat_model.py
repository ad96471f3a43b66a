"""Which model `chat` takes, what it is loaded as, and what is refused before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gguf_writing import write_gguf
from transformers import LlamaConfig, LlamaForCausalLM

from biomedllama_cli.errors import ModelError, UnavailableError
from biomedllama_cli.models.identity import hash_weights
from biomedllama_cli.recipes.chat_model import find_chat_model, find_source, load_chat_model
from biomedllama_cli.settings.chat import ChatComputeSettings, ChatSettings

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


def make_run(workspace: Path, name: str, command: str, *, saved: int, step: int = 4) -> Path:
    """Make a run folder with one complete checkpoint that was saved at a second."""
    run = workspace / "runs" / name
    checkpoint = run / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "COMPLETE").touch()
    os.utime(checkpoint / "COMPLETE", (saved, saved))
    (run / "settings.json").write_text(json.dumps({"job": {"command": command}}))
    return checkpoint


def load(source, **compute):
    return load_chat_model(find_source(str(source)), ChatComputeSettings(**{"device": "cpu", **compute}))


def test_the_newest_instructed_model_is_taken_before_newer_ones_of_other_commands(tmp_path, caplog):
    make_run(tmp_path, "old", "instruct", saved=100)
    instructed = make_run(tmp_path, "new", "instruct", saved=200)
    make_run(tmp_path, "tuned", "finetune", saved=300)
    with caplog.at_level(logging.INFO):
        assert find_chat_model(ChatSettings(workspace=tmp_path)) == str(instructed)
    assert "newest result of `instruct`" in caplog.text


def test_without_an_instructed_model_the_newest_checkpoint_is_taken_and_why_is_said(tmp_path, caplog):
    make_run(tmp_path, "tuned", "finetune", saved=200)
    newest = make_run(tmp_path, "trained", "pretrain", saved=300)
    with caplog.at_level(logging.INFO):
        assert find_chat_model(ChatSettings(workspace=tmp_path)) == str(newest)
    assert "holds none of `instruct`" in caplog.text


def test_an_empty_workspace_says_how_to_get_a_model(tmp_path):
    with pytest.raises(ModelError, match="holds no checkpoint") as caught:
        find_chat_model(ChatSettings(workspace=tmp_path))
    assert "biomedllama instruct" in caught.value.hint


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path):
    make_run(tmp_path, "mine", "instruct", saved=300, step=2)
    newest = make_run(tmp_path, "mine", "instruct", saved=100, step=10)
    assert find_source(str(tmp_path / "runs" / "mine")) == str(newest)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scratch:tiny", "nobody to talk to"),
        ("./absent", "does not exist"),
        ("absent.gguf", r"the file absent\.gguf does not exist"),
        ("owner/name/file.gguf", "does not exist"),
        ("{file}", "is a file, not a folder"),
        ("{broken}", "does not begin with GGUF"),
    ],
)
def test_what_cannot_be_talked_to_is_refused_before_anything_is_loaded(name, message, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.gguf").write_bytes(b"PK" + bytes(100))
    name = name.format(file=tmp_path / "notes.txt", broken=tmp_path / "broken.gguf")
    with pytest.raises(ModelError, match=message):
        find_chat_model(ChatSettings(workspace=tmp_path, model=name))


def test_a_hub_id_stays_one(tmp_path):
    assert find_chat_model(ChatSettings(workspace=tmp_path, model="owner/name")) == "owner/name"


def test_choosing_a_model_loads_nothing_heavy(tmp_path, model):
    newest = make_run(tmp_path, "mine", "instruct", saved=100)
    code = (
        "import sys\n"
        "from biomedllama_cli.recipes.chat_model import find_chat_model\n"
        "from biomedllama_cli.settings.chat import ChatSettings\n"
        f"find_chat_model(ChatSettings(model={str(model)!r}))\n"
        f"assert find_chat_model(ChatSettings(workspace={str(tmp_path)!r})) == {str(newest)!r}\n"
        "heavy = {'torch', 'transformers', 'datasets', 'gguf', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_facts_name_the_weights(model):
    loaded = load(model)
    assert loaded.facts["weights_sha256"] == hash_weights(model)
    assert loaded.facts["parameters"] == 43_168
    assert (loaded.facts["dtype"], loaded.facts["quantize"], loaded.facts["stored_as"]) == (
        "fp32",
        "none",
        None,
    )
    assert loaded.facts["tokenizer_fingerprint"] == loaded.tokenizer.fingerprint
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert load(model, dtype="bf16").model.dtype == torch.bfloat16


def test_the_context_is_the_models_own_and_a_longer_wish_is_lowered(model, caplog):
    assert load(model).context_length == 512
    assert load(model, context_length=100).context_length == 100
    assert not caplog.text
    assert load(model, context_length=600).context_length == 512
    assert "lowered from 600 to 512 tokens" in caplog.text


def test_a_file_is_named_by_its_own_hash_and_answers_like_its_folder(model, tmp_path):
    file = write_gguf(model, tmp_path / "tiny.gguf")
    loaded, plain = load(file), load(model)
    assert loaded.facts["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert loaded.facts["stored_as"] == "F32"
    ids = plain.tokenizer.encode("Iron is carried  by transferrin.")
    assert loaded.tokenizer.encode("Iron is carried  by transferrin.") == ids
    with torch.inference_mode():
        logits = [one.model(torch.tensor([ids])).logits for one in (loaded, plain)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-6)


def test_an_adapter_is_merged_into_its_base(model, tmp_path):
    from biomedllama_cli.models.adapters import add_adapter, save_adapter
    from biomedllama_cli.models.load import load_model
    from biomedllama_cli.settings.tuning import AdapterSettings

    base = load_model(str(model))
    add_adapter(base, AdapterSettings(method="lora", rank=2), seed=0, base=str(model))
    trained = {name: tensor for name, tensor in base.named_parameters() if tensor.requires_grad}
    for name, tensor in trained.items():
        if "lora_B" in name:
            torch.nn.init.constant_(tensor, 0.3)
    save_adapter(base, {name: tensor.detach() for name, tensor in trained.items()}, tmp_path / "adapter")
    loaded, ids = load(tmp_path / "adapter"), torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, base(ids).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(loaded.model(ids).logits, load(model).model(ids).logits, atol=1e-2)
    assert loaded.facts["weights_sha256"] == hash_weights(tmp_path / "adapter")
    with pytest.raises(ModelError, match="merged into unquantised weights") as caught:
        load(tmp_path / "adapter", quantize="nf4")
    assert "--merge" in caught.value.hint


def test_a_file_is_not_quantised_again(model, tmp_path):
    with pytest.raises(ModelError, match="brings its own quantisation"):
        load(write_gguf(model, tmp_path / "tiny.gguf"), quantize="int8")


@pytest.mark.parametrize(
    ("found", "says"), [(None, "it is not installed"), ("0.40.0", r"0\.40\.0 is installed")]
)
def test_quantising_without_bitsandbytes_names_it_and_the_way_without(found, says, model, monkeypatch):
    def version(name):
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr("biomedllama_cli.models.quantization.version", version)
    with pytest.raises(UnavailableError, match=says) as caught:
        load(model, quantize="nf4")
    assert "biomedllama-cli[qlora]" in caught.value.hint
    assert "--dtype bf16" in caught.value.hint


def test_a_device_that_is_not_there_is_named(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="no CUDA device"):
        load(model, device="cuda")


@pytest.fixture(scope="module")
def wide_model(tiny_models, tmp_path_factory) -> Path:
    """Return a model whose matrices are whole blocks of 64 columns."""
    folder = tmp_path_factory.mktemp("wide")
    shutil.copytree(tiny_models.plain, folder, dirs_exist_ok=True)
    config = LlamaConfig.from_pretrained(tiny_models.plain)
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "initializer_range": 0.1})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@needs_bitsandbytes
@pytest.mark.parametrize(("quantize", "bits"), [("int8", 8), ("nf4", 4)])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_quantised_weights_take_their_bits_and_answer_alike(quantize, bits, device, wide_model):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    plain = load(wide_model, device=device, dtype="fp32")
    loaded = load(wide_model, device=device, dtype="fp32", quantize=quantize)
    weight = loaded.model.model.layers[0].mlp.up_proj.weight
    full = plain.model.model.layers[0].mlp.up_proj.weight
    assert weight.numel() * weight.element_size() == full.numel() * bits // 8
    assert loaded.facts["parameters"] == plain.facts["parameters"]
    assert loaded.facts["quantize"] == quantize
    ids = torch.tensor([plain.tokenizer.encode("Iron is carried by transferrin.")], device=device)
    with torch.inference_mode():
        expected, found = plain.model(ids).logits.float(), loaded.model(ids).logits.float()
    assert not torch.equal(found, expected)
    similarity = torch.nn.functional.cosine_similarity(found, expected, dim=-1)
    assert float(similarity.mean()) > (0.995 if bits == 8 else 0.95)


@needs_bitsandbytes
def test_four_bits_on_a_cpu_refuse_matrices_that_are_not_whole_blocks(model):
    with pytest.raises(ModelError, match="not whole blocks of 32 rows and 64 columns"):
        load(model, quantize="nf4")
