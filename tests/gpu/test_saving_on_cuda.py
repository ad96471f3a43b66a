"""A checkpoint that is written while a CUDA device trains on: it holds its own step, and training hardly waits."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from biomedllama_cli.engine.accelerator import build_accelerator
from biomedllama_cli.engine.checkpoint import Progress, RunFolder, Saver
from biomedllama_cli.models.load import load_model
from biomedllama_cli.recipes.training import build_trainee
from biomedllama_cli.settings.pretrain import (
    CheckpointSettings,
    NumericsSettings,
    OptimizerSettings,
    ParallelSettings,
)


def save(trainee: Any, folder: Path, *, in_background: bool, meanwhile: Any) -> tuple[Path, float]:
    """Save twice, so that the second finds its host memory; return that checkpoint and how long training waited (s)."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer_config.json").write_text("{}")
    run = RunFolder(folder, tokenizer, {"seed": 0})
    settings = CheckpointSettings(save_in_background=in_background)
    saver, waited = Saver(run, trainee.accelerator, settings), 0.0
    for step in (1, 2):
        began = time.perf_counter()
        saver.save(trainee.model, trainee.optimizer, Progress(step, step, {"seed": 0}, {}))
        waited = time.perf_counter() - began
        if step == 2:
            meanwhile()
        saver.finish()
    assert saver.newest is not None
    return saver.newest, waited


@pytest.fixture
def trainee(device: torch.device) -> Any:
    """Return a model of 110 million parameters, with the moments of one step."""
    AcceleratorState._reset_state(reset_partial_state=True)  # which remembers the device
    numerics = NumericsSettings.model_validate({"attention": "sdpa"})
    accelerator = build_accelerator(ParallelSettings.model_validate({"device": device.type}), numerics)
    model = load_model("scratch:110m", vocabulary_size=1000, eos_id=2, seed=0)
    settings: Any = SimpleNamespace(numerics=numerics, optimizer=OptimizerSettings())
    built = build_trainee(accelerator, model, settings, None)
    for parameter in built.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    built.optimizer.step()
    return built


def test_training_goes_on_while_a_checkpoint_is_written(trainee: Any, tmp_path: Path) -> None:
    def change_weights() -> None:
        with torch.no_grad():
            for parameter in trainee.model.parameters():
                parameter.add_(1.0)

    kept = {name: tensor.detach().cpu().clone() for name, tensor in trainee.model.state_dict().items()}
    later, short_wait = save(trainee, tmp_path / "later", in_background=True, meanwhile=change_weights)
    trainee.model.load_state_dict(kept)
    now, long_wait = save(trainee, tmp_path / "now", in_background=False, meanwhile=lambda: None)
    files = sorted(path.relative_to(now) for path in now.rglob("*.safetensors"))
    assert files
    for file in files:
        assert (later / file).read_bytes() == (now / file).read_bytes()
    assert short_wait < long_wait
