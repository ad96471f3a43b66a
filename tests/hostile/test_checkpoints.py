"""Checkpoints of strangers run no code, open no file elsewhere, and are refused in a sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from biomedllama_cli.engine.checkpoint import (
    Progress,
    RunFolder,
    Saver,
    load_optimizer,
    load_progress,
    remove_old_checkpoints,
    restore_random_states,
    restore_scaler,
)
from biomedllama_cli.engine.saved_runs import list_checkpoints
from biomedllama_cli.errors import DataError, ModelError, UserError
from biomedllama_cli.models.load import load_model
from biomedllama_cli.settings.pretrain import CheckpointSettings

CONFIG = LlamaConfig(
    vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
)
STATE = "training_state"


class _TouchesAFile:
    """Unpickling it creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o755)


def build_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    (folder / "tokenizer").mkdir()
    model = LlamaForCausalLM(CONFIG)
    optimizer = build_optimizer(model)
    model(torch.arange(8)[None]).logits.sum().backward()
    optimizer.step()
    run = RunFolder(folder, folder / "tokenizer", {})
    saver = Saver(run, Accelerator(cpu=True), CheckpointSettings())
    saver.save(model, optimizer, Progress(1, 8, {}, {}))
    assert saver.newest is not None
    return saver.newest


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "run" / "checkpoints" / saved.name)


def resume(checkpoint: Path) -> PreTrainedModel:
    """Read everything that going on from a checkpoint reads."""
    load_progress(checkpoint)
    model = load_model(str(checkpoint))
    load_optimizer(checkpoint, model, build_optimizer(model))
    restore_random_states(checkpoint, Accelerator(cpu=True))
    return model


def files_of(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.stat().st_size
    )


def test_a_pickle_under_any_name_that_is_read_is_refused_without_effect(
    checkpoint: Path, tmp_path: Path
) -> None:
    resume(checkpoint)
    effect, names = tmp_path / "effect", files_of(checkpoint)
    assert f"{STATE}/optimizer.safetensors" in names
    payload = pickle.dumps(_TouchesAFile(effect))
    for name in names:
        if name in ("generation_config.json",):  # transformers goes on without it
            continue
        before = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(payload)
        with pytest.raises(UserError):
            resume(checkpoint)
        (checkpoint / name).write_bytes(before)
    assert not effect.exists()
    pickle.loads(payload)
    assert effect.exists(), "the trap is armed"


def test_pickles_beside_a_checkpoint_are_not_looked_at(checkpoint: Path, tmp_path: Path) -> None:
    effect = tmp_path / "effect"
    payload = pickle.dumps(_TouchesAFile(effect))
    names = (".metadata", "optimizer.bin", "optimizer.pt", "pytorch_model.bin", "random_states_0.pkl")
    for name in (*names, *(f"{STATE}/{name}" for name in names), f"{STATE}/rng_state.pth", "__0_0.distcp"):
        (checkpoint / name).write_bytes(payload)
    resume(checkpoint)
    assert not effect.exists()


HEADERS: dict[str, bytes] = {
    "longer than the file": (1 << 62).to_bytes(8, "little") + b"{}",
    "no JSON": (8).to_bytes(8, "little") + b"{{{{{{{{",
    "tensor beyond the end": b"",
    "negative shape": b"",
    "empty": b"",
}


def plant_header(path: Path, kind: str) -> None:
    if HEADERS[kind] or kind == "empty":
        path.write_bytes(HEADERS[kind])
        return
    shape, end = ([1 << 40], 1 << 42) if kind == "tensor beyond the end" else ([-1], 4)
    header = json.dumps({"weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize(
    "name", ["model.safetensors", f"{STATE}/optimizer.safetensors", f"{STATE}/rng.safetensors"]
)
def test_an_absurd_header_is_one_sentence(checkpoint: Path, name: str, kind: str) -> None:
    plant_header(checkpoint / name, kind)
    with pytest.raises((DataError, ModelError)) as refused:
        resume(checkpoint)
    assert "checkpoint" in refused.value.message or str(checkpoint) in refused.value.message


def turn(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(
        name for name, tensor in tensors.items() if tensor.ndim == 2 and len(tensor) != tensor.shape[1]
    )
    return tensors | {name: tensors[name].T.contiguous()}


def drop(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first = min(tensors).rpartition(".")[0]
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(first + ".")}


def drop_second(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first = next(name for name in sorted(tensors) if name.endswith(".exp_avg_sq"))
    return {name: tensor for name, tensor in tensors.items() if name != first}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (turn, "has the shape"),
        (drop, "no moments of 1 tensors"),
        (drop_second, "no moments of 1 tensors"),
        (lambda tensors: tensors | {"model.other.weight.exp_avg": torch.zeros(1)}, "model.other.weight"),
    ],
)
def test_moments_of_another_model_are_refused(
    checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], named: str
) -> None:
    path = checkpoint / STATE / "optimizer.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(DataError, match=named):
        resume(checkpoint)


@pytest.mark.parametrize(
    "place", ["../outside.safetensors", "/etc/outside.safetensors", "a/b.safetensors", "x.bin", 7]
)
def test_an_index_that_names_anything_but_files_beside_it_is_refused(
    checkpoint: Path, tmp_path: Path, place: object
) -> None:
    outside = checkpoint.parent / "outside.safetensors"
    (checkpoint / "model.safetensors").rename(outside)
    names = load_file(outside).keys()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, place)}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="may only name"):
        resume(checkpoint)


def test_an_index_of_files_beside_it_is_read(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    save_file(tensors, checkpoint / "model-00001-of-00001.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    found = resume(checkpoint).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


SOUND = {"step": 1, "tokens_seen": 8, "order": {}, "grad_scaler": {}}


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "null", '{"step": "many"}', "[" * 100_000, '{"step": 1}'),
        json.dumps(SOUND | {"best": {"foo": 1}}),
        json.dumps(SOUND | {"best": {"step": 1, "loss": "low"}}),
        json.dumps(SOUND | {"gate": {"in_a_row": 1}}),
    ],
)
def test_a_malformed_progress_is_refused(checkpoint: Path, content: str) -> None:
    (checkpoint / STATE / "progress.json").write_text(content)
    with pytest.raises(DataError, match="cannot be read"):
        load_progress(checkpoint)


def test_what_older_checkpoints_say_of_no_best_and_no_gate_is_read(checkpoint: Path) -> None:
    (checkpoint / STATE / "progress.json").write_text(json.dumps(SOUND | {"best": {}, "gate": {}}))
    assert (load_progress(checkpoint).best, load_progress(checkpoint).gate) == (None, None)


def test_a_loss_scaling_that_is_none_is_refused(checkpoint: Path) -> None:
    accelerator: Any = SimpleNamespace(scaler=torch.amp.GradScaler("cpu"))
    restore_scaler(checkpoint, accelerator, {})
    restore_scaler(checkpoint, accelerator, accelerator.scaler.state_dict())
    with pytest.raises(DataError, match="cannot be read"):
        restore_scaler(checkpoint, accelerator, {"x": 1.0})


def test_what_people_put_beside_checkpoints_neither_ends_a_run_nor_is_removed(checkpoint: Path) -> None:
    places = checkpoint.parent
    unfinished = [places / "step-00000002", places / ".step-00000003.tmp"]
    for each in unfinished:
        (each / STATE).mkdir(parents=True)
    own = [places / "step-losses.csv", places / "step-notes", places / "step-latest"]
    own[0].touch()
    own[1].mkdir()
    own[2].symlink_to("step-00000009")  # was there once
    remove_old_checkpoints(places.parent, keep=1)
    assert sorted(places.iterdir()) == sorted([checkpoint, *own])


def test_a_folder_that_only_looks_like_a_checkpoint_is_passed_over(checkpoint: Path) -> None:
    planted = checkpoint.parent / "step-../../etc".replace("/", "_")
    planted.mkdir()
    (planted / "COMPLETE").touch()
    assert list_checkpoints(checkpoint.parent.parent) == [checkpoint]
