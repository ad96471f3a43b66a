"""Saving in the background, what is kept, and models whose files hold other tensors than they do."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, safe_open, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from biomedllama_cli.engine import checkpoint_writer, staging
from biomedllama_cli.engine.checkpoint import Progress, RunFolder, Saver, load_progress
from biomedllama_cli.engine.checkpoint_draft import Piece, describe_model_files, split_weights
from biomedllama_cli.engine.metrics import METRICS_FILE, iter_metrics
from biomedllama_cli.engine.saved_runs import find_checkpoint, list_checkpoints, read_step
from biomedllama_cli.errors import OutputError
from biomedllama_cli.models.tensor_files import TensorFile, TensorSpec, create_file, plan_file, write_tensor
from biomedllama_cli.settings.pretrain import CheckpointSettings

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


def keep(loop: Any, **changes: Any) -> Any:
    """Change how a loop saves."""
    settings = loop._settings.checkpoint.model_copy(update=changes)
    loop._saver = type(loop._saver)(loop._run, loop._accelerator, settings)
    return loop


def test_a_file_is_that_of_the_safetensors_library(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b": torch.randn(3, 5, generator=generator),
        "a.half": torch.randn(7, generator=generator).bfloat16(),
        "scalar": torch.tensor(3.0),
        "none": torch.zeros(0, 4),
        "count": torch.arange(3),
    }
    plan = plan_file({name: TensorSpec.of(tensor) for name, tensor in tensors.items()})
    create_file(tmp_path / "own", plan)
    with (tmp_path / "own").open("r+b") as file:
        for name, tensor in tensors.items():
            write_tensor(file.fileno(), plan.starts[name], tensor)
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "own").read_bytes() == (tmp_path / "theirs").read_bytes()
    with TensorFile(tmp_path / "own") as mapped:
        assert mapped.names == set(tensors)
        assert torch.equal(mapped.read_rows("b", 1, 3), tensors["b"][1:3])


def test_a_save_in_the_background_holds_its_own_step(
    build_loop: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is held up until training has gone on; the bytes are those of a save that training waited for."""
    for name in ("now", "later"):
        (tmp_path / name).mkdir()
    build_loop(tmp_path / "now", max_steps=9, save_every_steps=4).run()
    gone_on, write = threading.Event(), checkpoint_writer.write_tensor

    def write_late(*arguments: Any) -> None:
        gone_on.wait(20)
        write(*arguments)

    monkeypatch.setattr(checkpoint_writer, "write_tensor", write_late)
    seen: list[list[Path]] = []

    class Watch:
        def start_at(self, done: float) -> None:
            self.done = done

        def advance(self, amount: float = 1.0, note: str = "") -> None:
            self.done += amount
            if self.done == 6:
                seen.append(list_checkpoints(tmp_path / "later"))
                time.sleep(0.6)  # the writer waits for it, and training does not wait for the writer
                gone_on.set()

    loop = build_loop(tmp_path / "later", max_steps=9, save_every_steps=4, progress=Watch())
    keep(loop, save_in_background=True).run()
    assert seen == [[]], "step 4 was still being written when step 6 was done"
    steps = [read_step(each) for each in list_checkpoints(tmp_path / "later")]
    assert steps == [4, 8, 9]
    for step in steps:
        for file in (
            "model.safetensors",
            "training_state/optimizer.safetensors",
            "training_state/rng.safetensors",
        ):
            place = f"checkpoints/step-{step:08d}/{file}"
            assert (tmp_path / "now" / place).read_bytes() == (tmp_path / "later" / place).read_bytes()
    lines = [line for line in iter_metrics(tmp_path / "later" / METRICS_FILE) if "checkpoint/step" in line]
    assert [line["checkpoint/step"] for line in lines] == [4, 8, 9]
    assert lines[0]["step"] >= 6
    assert lines[0]["checkpoint/write_seconds"] >= 0.6
    assert 0 < lines[0]["checkpoint/stall_seconds"] < lines[0]["checkpoint/write_seconds"]


def test_a_copy_lies_in_blocks_that_tensors_share_and_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "BLOCK_BYTES", 64)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in ((), (0, 3), (7, 5), (1,))]
    tensors += [torch.randn(9, 4, generator=generator).bfloat16().T, torch.tensor([True, False])]
    pieces = [Piece("file", 1000 * number, tensor) for number, tensor in enumerate(tensors)]
    memory = staging.Staging()
    assert memory.count_missing(pieces) == 256  # 222 bytes
    for _ in range(2):
        found = defaultdict[int, bytes](bytes)
        for copy in memory.copy(pieces):
            number, offset = divmod(copy.place, 1000)
            assert offset == len(found[number])
            found[number] += copy.rows.numpy().tobytes()
        for number, tensor in enumerate(tensors):
            assert found[number] == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert memory.count_missing(pieces) == 0
        for tensor in tensors:
            tensor.copy_(tensor.flip(0) if tensor.ndim else tensor + 1)


def test_without_host_memory_for_a_copy_every_save_is_waited_for_and_told_once(
    build_loop: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(staging.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**26))
    loop = keep(build_loop(tmp_path, max_steps=6, save_every_steps=3), save_in_background=True)
    loop.run()
    assert [read_step(each) for each in list_checkpoints(tmp_path)] == [3, 6]
    lines = [line for line in iter_metrics(tmp_path / METRICS_FILE) if "checkpoint/step" in line]
    assert [line["step"] for line in lines] == [3, 6]
    assert all(line["checkpoint/stall_seconds"] >= line["checkpoint/write_seconds"] for line in lines)
    (told,) = [line for line in caplog.messages if "host memory" in line]
    assert "training waits for every save" in told


@pytest.mark.parametrize("in_background", [False, True])
def test_a_disk_that_fills_while_saving_ends_the_run_and_leaves_the_checkpoint_before(
    build_loop: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_background: bool
) -> None:
    calls, write = iter(range(1, 10_000)), checkpoint_writer.write_tensor
    loop = keep(build_loop(tmp_path, max_steps=20, save_every_steps=5), save_in_background=in_background)
    tensors = 4 * len(list(loop._model.parameters()))  # weights, two moments and a count

    def write_until_full(*arguments: Any) -> None:
        if next(calls) > tensors + tensors // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    monkeypatch.setattr(checkpoint_writer, "write_tensor", write_until_full)
    with pytest.raises(OutputError, match="is full"):
        loop.run()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]
    newest = find_checkpoint(tmp_path)
    assert newest is not None
    assert load_progress(newest).step == 5
    again = build_loop(tmp_path, max_steps=6, resume=newest)
    monkeypatch.undo()
    assert again.run().step == 6


def test_multiples_stay_beside_the_newest(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    loop = build_loop(tmp_path, max_steps=21, save_every_steps=2)
    keep(loop, keep_checkpoints=2, keep_every_steps=6).run()
    assert [read_step(each) for each in list_checkpoints(tmp_path)] == [6, 12, 18, 20, 21]


def test_large_models_are_spread_over_files_as_transformers_does(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **SIZES))
    weights = dict(model.state_dict())
    files, index = split_weights(weights, largest_file="5KB")
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    wanted = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert json.loads(index["model.safetensors.index.json"])["weight_map"] == wanted["weight_map"]
    assert all(set(names) == set(load_file(tmp_path / file)) for file, names in files.items())


def test_a_model_whose_files_hold_other_tensors_is_written_by_transformers(tmp_path: Path) -> None:
    """Experts lie together in the model and apart in its files."""
    model = MixtralForCausalLM(
        MixtralConfig(num_hidden_layers=1, num_key_value_heads=2, num_local_experts=2, **SIZES)
    )
    assert describe_model_files(model).names is None
    assert describe_model_files(LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **SIZES))).names
    (tmp_path / "tokenizer").mkdir()
    optimizer = torch.optim.AdamW(model.parameters())
    run = RunFolder(tmp_path, tmp_path / "tokenizer", {})
    saver = Saver(run, Accelerator(cpu=True), CheckpointSettings())
    saver.save(model, optimizer, Progress(1, 0, {}, {}))
    checkpoint = saver.newest
    assert checkpoint is not None
    (tmp_path / "new").touch()
    assert (checkpoint / "model.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode
    model.save_pretrained(tmp_path / "plain")
    with (
        safe_open(checkpoint / "model.safetensors", "pt") as file,
        safe_open(tmp_path / "plain" / "model.safetensors", "pt") as plain,
    ):
        assert set(file.keys()) == set(plain.keys()) != set(model.state_dict())
    again = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
