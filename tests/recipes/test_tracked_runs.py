"""What the commands that train tell of their steps: the loss of each source, and trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from small_corpora import read_sample, write_corpus
from tuning_runs import run_instruct

from biomedllama_cli.engine.loop import Loop
from biomedllama_cli.engine.metrics import iter_metrics
from biomedllama_cli.errors import Resumable, UnavailableError
from biomedllama_cli.recipes.pretrain import pretrain
from biomedllama_cli.settings.pretrain import PretrainSettings


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return corpora of two sources, made with one tokenizer."""
    folder, texts = tmp_path_factory.mktemp("corpora"), read_sample(60)
    found = [write_corpus(folder / name, texts) for name in ("pubmed", "pmc")]
    for corpus in found:
        manifest = json.loads((corpus / "manifest.json").read_text())
        for shard in manifest["shards"]:
            shard["source"] = corpus.name
        (corpus / "manifest.json").write_text(json.dumps(manifest))
    return found


def run_pretrain(folder: Path, corpora: list[Path], *, dry_run: bool = False, **monitor: Any) -> Any:
    AcceleratorState._reset_state(reset_partial_state=True)
    tree = {
        "corpus": corpora[0],
        "mix": corpora[1:],
        "model": "scratch:tiny",
        "output_dir": folder / "run",
        "batch": {"sequence_length": 64, "micro_batch_size": 4, "global_batch_size": 8},
        "duration": {"max_steps": 6},
        "numerics": {"precision": "fp32"},
        "parallel": {"device": "cpu"},
        "checkpoint": {"save_every_steps": 2},
        "monitor": {"general": ["none"], "validation_sequences": 4, **monitor},
    }
    return pretrain(PretrainSettings.model_validate(tree), dry_run=dry_run)


def read_scalars(run_folder: Path, name: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run_folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def read_metric(run_folder: Path, name: str) -> list[tuple[int, float]]:
    lines = iter_metrics(run_folder / "metrics.jsonl")
    return [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]


def test_the_losses_of_the_sources_lie_around_that_of_the_step(tmp_path: Path, corpora: list[Path]) -> None:
    report = run_pretrain(tmp_path, corpora)
    steps = [line for line in iter_metrics(report.run_folder / "metrics.jsonl") if "train/loss" in line]
    parts = [
        [line[name] for name in ("train/loss/pubmed", "train/loss/pmc") if name in line] for line in steps
    ]
    assert any(len(part) == 2 for part in parts)
    for line, part in zip(steps, parts, strict=True):
        assert min(part) - 1e-6 <= line["train/loss"] <= max(part) + 1e-6
    assert report.loss_curve.with_suffix(".svg").is_file()


def test_a_stopped_and_resumed_pretraining_has_each_step_once_in_tensorboard(
    tmp_path: Path, corpora: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    train = Loop._train

    def die(loop: Any, step: int, *rest: Any) -> Any:
        if step == 6:
            raise KeyboardInterrupt
        return train(loop, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_train", die)
        with pytest.raises((KeyboardInterrupt, Resumable)):
            run_pretrain(tmp_path, corpora, track=["tensorboard"])
    report = run_pretrain(tmp_path, corpora, track=["tensorboard"])
    assert report.resumed_step == 4  # step 5 is trained twice
    for name in ("train/loss", "validation/loss", "train/loss/pmc"):
        shown = read_scalars(report.run_folder, name)
        assert shown == read_metric(report.run_folder, name)
        assert len({step for step, _ in shown}) == len(shown)


def test_a_tuning_run_is_tracked_as_well(tmp_path: Path, chat_model: Path, mixture: Path) -> None:
    pytest.importorskip("tensorboard")
    report = run_instruct(tmp_path, chat_model, mixture, monitor={"track": ["tensorboard"]})
    folder = report.runs[0].run_folder
    assert [step for step, _ in read_scalars(folder, "train/loss")] == [1, 2, 3, 4]
    assert (folder / "loss_curve.svg").is_file()


def test_a_tracker_without_its_package_is_refused_before_anything_is_written(
    tmp_path: Path, corpora: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from biomedllama_cli.engine import tracking

    def find(name: str) -> None:
        raise tracking.PackageNotFoundError(name)

    monkeypatch.setattr(tracking, "distribution", find)
    for dry_run in (False, True):
        with pytest.raises(UnavailableError, match="track is wandb, but the package wandb is not installed"):
            run_pretrain(tmp_path, corpora, dry_run=dry_run, track=["wandb"])
    assert list(tmp_path.iterdir()) == []
