"""Tests that need a CUDA device; on any other machine each is skipped, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from biomedllama_cli.engine.accelerator import build_accelerator
from biomedllama_cli.engine.loop import Trainee
from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.engine.optimizer import set_learning_rate
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.models.load import load_model
from biomedllama_cli.recipes.training import build_trainee, choose_attention
from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, ParallelSettings

HERE = Path(__file__).parent
ROWS, LENGTH, VOCABULARY = 2, 300, 300
PACKED = [[150, 1, 60, 89], [200, 100]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder, and skip it without CUDA."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and PyTorch sees none here"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return the device that is tested."""
    return torch.device("cuda")


@pytest.fixture
def packed() -> dict[str, torch.Tensor]:
    """Return rows of several documents each: `input_ids`, `labels` and `position_ids`, int64 [2, 300], on the host."""
    ids = torch.randint(4, VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in PACKED])
    return {"input_ids": ids[:, :-1].clone(), "labels": ids[:, 1:].clone(), "position_ids": positions}


Build = Callable[..., Trainee]


@pytest.fixture
def build() -> Build:
    """Return a builder of what is trained, by the name of a device and numerics; `scratch:tiny`, seeded.

    Accelerate keeps one device for a process: what was built before must not be trained any more.
    """

    def build_one(device_type: str, **numerics: Any) -> Trainee:
        AcceleratorState._reset_state(reset_partial_state=True)  # which remembers the device
        chosen = NumericsSettings.model_validate({"attention": "sdpa", "tf32": False, **numerics})
        accelerator = build_accelerator(ParallelSettings.model_validate({"device": device_type}), chosen)
        attention = choose_attention(chosen, accelerator.device)
        model = load_model("scratch:tiny", attention=attention, vocabulary_size=VOCABULARY, eos_id=2, seed=0)
        settings: Any = SimpleNamespace(numerics=chosen, optimizer=OptimizerSettings())
        trainee = build_trainee(accelerator, model, settings, None)
        trainee.model.train()
        return trainee

    return build_one


@pytest.fixture
def train(packed: dict[str, torch.Tensor]) -> Callable[[Trainee, int], list[StepFacts]]:
    """Return a function that trains some steps of two micro-batches."""

    def train_some(trainee: Trainee, steps: int) -> list[StepFacts]:
        done = []
        frame = StepFrame.plain(trainee.accelerator, 1.0, ROWS)
        for _ in range(steps):
            set_learning_rate(trainee.optimizer, 1e-2)
            micro_batches = [dict(packed), {name: part.flip(0) for name, part in packed.items()}]
            done.append(
                train_step(trainee.accelerator, trainee.model, trainee.optimizer, micro_batches, frame)
            )
        return done

    return train_some
