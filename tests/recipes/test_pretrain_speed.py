"""Runs of the whole command with what saves time or memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from small_corpora import read_sample, write_corpus

from biomedllama_cli.engine.layer_compiler import find_compile_obstacle
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.recipes.pretrain import PretrainReport, pretrain
from biomedllama_cli.settings.pretrain import PretrainSettings

Train = Callable[..., PretrainReport]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("work") / "corpora" / "papers", read_sample(60))


@pytest.fixture
def train(corpus: Path, tmp_path: Path) -> Train:
    def run(name: str, *, dry_run: bool = False, **numerics: object) -> PretrainReport:
        AcceleratorState._reset_state(reset_partial_state=True)
        tree = {
            "workspace": tmp_path,
            "corpus": corpus,
            "model": "scratch:tiny",
            "output_dir": tmp_path / name,
            "batch": {"sequence_length": 64, "micro_batch_size": 2, "global_batch_size": 4},
            "duration": {"max_steps": 4},
            "numerics": {"precision": "fp32"} | numerics,
            "parallel": {"device": "cpu"},
            "checkpoint": {"save_every_steps": 2},
        }
        return pretrain(PretrainSettings.model_validate(tree), dry_run=dry_run)

    return run


def read_weights(report: PretrainReport) -> dict[str, torch.Tensor]:
    assert report.checkpoint is not None
    return load_file(report.checkpoint / "model.safetensors")


@pytest.mark.parametrize("dry_run", [True, False])
def test_selective_checkpointing_of_compiled_layers_is_refused(train: Train, dry_run: bool) -> None:
    with pytest.raises(SettingsError, match="already keeps its products"):
        train("refused", dry_run=dry_run, compile=True, activation_checkpointing="selective")


def test_selective_checkpointing_ends_in_the_same_weights(train: Train) -> None:
    expected = read_weights(train("none"))
    found = read_weights(train("selective", activation_checkpointing="selective"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_and_names_of_an_eager_one(train: Train) -> None:
    obstacle = find_compile_obstacle("cpu")
    if obstacle is not None:
        pytest.skip(f"nothing can be compiled here: {obstacle}")
    eager, compiled = train("eager"), train("compiled", compile=True)
    assert compiled.validation_loss_after == pytest.approx(eager.validation_loss_after, abs=1e-5)
    expected, found = read_weights(eager), read_weights(compiled)
    assert expected.keys() == found.keys()
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-4
