"""`finetune` on a made-up task: what is learnt, written, scored, and not done twice."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from tuning_runs import (
    RIGHT,
    list_files,
    read_losses,
    run_finetune,
    write_questions,
)

from biomedllama_cli.cli.app import run
from biomedllama_cli.engine.metrics import iter_metrics
from biomedllama_cli.errors import OutputError
from biomedllama_cli.models.load import load_model
from biomedllama_cli.recipes.finetune_report import FinetuneReport

_LEARNING: dict[str, Any] = {"duration": {"max_steps": 16, "epochs": 4}, "batch": {"global_batch_size": 16}}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("task") / "boxes.jsonl", 64)


@pytest.fixture(scope="module")
def test_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("test") / "test.jsonl", 12, seed=1)


class Learned:
    """A run of two seeds, scored before and after."""

    def __init__(self, folder: Path, model: Path, task: Path, test_file: Path) -> None:
        self.folder, self.model, self.task, self.test_file = folder, model, task, test_file
        self.report: FinetuneReport = self.run()

    def run(self, **changes: Any) -> Any:
        questions = {"test": self.test_file, "evaluate": True}
        return run_finetune(
            self.folder, self.model, self.task, seeds="0,1", questions=questions, **{**_LEARNING, **changes}
        )


@pytest.fixture(scope="module")
def learned(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: Any, task: Path, test_file: Path
) -> Learned:
    return Learned(tmp_path_factory.mktemp("learned"), tiny_models.plain, task, test_file)


def test_a_model_learns_and_its_score_says_so(learned: Learned) -> None:
    losses = read_losses(learned.report)
    assert losses[-1] < losses[0] / 4
    assert learned.report.likelihood_gains is not None
    (cell,) = learned.report.likelihood_gains.cells
    assert cell.n == 12
    assert cell.before.accuracy.value < 0.9
    assert [score.accuracy.value for score in cell.after] == [1.0, 1.0]
    assert learned.report.gains is not None
    assert learned.report.gains.cells[0].task == "questions"


def test_each_seed_has_its_own_folder_order_and_score(learned: Learned) -> None:
    first, second = learned.report.runs
    assert (first.seed, second.seed) == (0, 1)
    assert [run.run_folder.name for run in (first, second)] == ["seed-0", "seed-1"]
    metrics = [
        [
            line["train/loss"]
            for line in iter_metrics(run.run_folder / "metrics.jsonl")
            if "train/loss" in line
        ]
        for run in (first, second)
    ]
    assert metrics[0] != metrics[1]
    evaluated = learned.folder / "run" / "evaluation"
    assert list_files(evaluated)[:1] == ["before"]
    assert {path.name for path in evaluated.iterdir()} == {"before", "seed-0", "seed-1"}
    assert learned.report.likelihood_gains is not None
    (cell,) = learned.report.likelihood_gains.cells
    assert [score.seed for score in cell.after] == [0, 1]
    text = "\n".join(learned.report.lines())
    assert "±" in text


def test_the_next_command_scores_ones_own_questions(
    learned: Learned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = learned.report.lines()[-1]
    assert shown.startswith(f"Next: biomedllama evaluate --model {learned.report.runs[0].checkpoint} ")
    arguments = shlex.split(shown)[2:]
    assert run([*arguments, "--device", "cpu", "--limit", "2", "--output-dir", str(tmp_path / "out")]) == 0
    (cell,) = json.loads((tmp_path / "out" / "results.json").read_text())["questions"]
    assert (cell["task"], cell["metrics"]["scores"]["option_likelihood"]["correct"]) == ("questions", 2)


def test_the_same_command_neither_trains_nor_scores_again(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("finetune.tune", "finetune_tests.evaluate"):
        monkeypatch.setattr(f"biomedllama_cli.recipes.{name}", lambda *_, **__: pytest.fail("it ran again"))
    again = learned.run()
    assert [run.status for run in again.runs] == ["already trained"] * 2
    assert again.likelihood_gains == learned.report.likelihood_gains
    assert again.gains == learned.report.gains
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(
        "biomedllama_cli.recipes.finetune_tests.load_gains", lambda *_, **__: pytest.fail("twice")
    )
    assert learned.run().gains is None  # of several processes the first one tells


def test_a_model_whose_weights_changed_is_scored_again(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that --overwrite has trained into the same folder."""
    scored: list[Path | None] = []
    monkeypatch.setattr(
        "biomedllama_cli.recipes.finetune_tests.evaluate", lambda request: scored.append(request.output_dir)
    )
    assert learned.report.runs[1].checkpoint is not None
    file = learned.report.runs[1].checkpoint / "model.safetensors"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        learned.run()
    finally:
        file.write_bytes(content)
    assert scored == [learned.folder / "run" / "evaluation" / "seed-1"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": {"peak_learning_rate": 5e-3}}, "peak_learning_rate"),
        ({"adapter": {"method": "lora"}}, "adapter.method"),
        ({"rows": {"packing": False}}, None),
    ],
    ids=["rate", "method", "packing"],
)
def test_a_folder_takes_another_run_only_where_the_result_would_be_the_same(
    learned: Learned, changes: dict[str, Any], named: str | None
) -> None:
    if named is None:
        dry = run_finetune(
            learned.folder, learned.model, learned.task, seeds="0,1", dry_run=True, **{**_LEARNING, **changes}
        )
        assert [run.status for run in dry.runs] == ["would continue"] * 2
        return
    before = list_files(learned.folder)
    with pytest.raises(OutputError, match=named) as caught:
        learned.run(**changes)
    assert "--overwrite" in caught.value.hint
    assert list_files(learned.folder) == before


def test_a_full_checkpoint_is_a_plain_transformers_folder(learned: Learned) -> None:
    checkpoint = learned.report.runs[0].checkpoint
    assert checkpoint is not None
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(checkpoint))
    facts = json.loads((checkpoint / "tuning.json").read_text())
    assert (facts["template"], facts["base"]) == ("plain", str(learned.model))


def test_lora_learns_and_merges_into_a_plain_folder_with_the_same_logits(
    tmp_path: Path, model: Path, task: Path, test_file: Path
) -> None:
    report = run_finetune(
        tmp_path,
        model,
        task,
        questions={"test": test_file, "evaluate": True},
        adapter={"method": "lora", "merge": True, "rank": 8},
        **_LEARNING,
        optimizer={"peak_learning_rate": 2e-2},
    )
    assert report.trainable_parameters < report.parameters / 2
    losses = read_losses(report)
    assert losses[-1] < losses[0] / 3
    assert report.likelihood_gains.cells[0].after[0].accuracy.value == 1.0
    (tuned,) = report.runs
    assert tuned.merged == tmp_path / "run" / "merged"
    assert not (tuned.merged / "adapter_config.json").exists()
    ids = torch.tensor([AutoTokenizer.from_pretrained(tuned.merged)(f"What is a {RIGHT}?").input_ids])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tuned.merged)(ids).logits
        adapter = load_model(str(tuned.checkpoint)).eval()(ids).logits
        base = AutoModelForCausalLM.from_pretrained(model)(ids).logits
    torch.testing.assert_close(merged, adapter, atol=1e-4, rtol=1e-4)
    assert (merged - base).abs().max() > 0.1
    assert f"--model {tuned.merged} " in report.lines()[-1]


def test_the_best_checkpoint_is_kept_and_patience_ends_the_run(
    tmp_path: Path, model: Path, task: Path
) -> None:
    report = run_finetune(
        tmp_path,
        model,
        task,
        questions={"validation_fraction": 0.2},
        duration={"max_steps": 40, "epochs": 20, "patience": 2},
        monitor={"validate_every_steps": 2},
        optimizer={"peak_learning_rate": 0.1},  # too much: the loss soon rises again
        schedule={"warmup_fraction": 0.0},
    )
    (tuned,) = report.runs
    assert report.data.held_out == 13
    looks = {
        line["step"]: line["validation/loss"]
        for line in iter_metrics(tuned.run_folder / "metrics.jsonl")
        if "validation/loss" in line
    }
    after = {step: loss for step, loss in looks.items() if step}
    best = min(after, key=after.__getitem__)
    assert (tuned.best_step, tuned.validation_loss_best) == (best, after[best])
    assert tuned.checkpoint is not None
    assert tuned.checkpoint.name == f"step-{best:08}"
    assert tuned.checkpoint.is_dir()
    assert tuned.steps_done == best + 4 < tuned.steps
    assert tuned.validation_loss_before == looks[0]


def test_packed_and_unpacked_runs_learn_the_same(tmp_path: Path, model: Path, task: Path) -> None:
    packed, unpacked = (
        run_finetune(
            tmp_path / str(packing),
            model,
            task,
            rows={"packing": packing},
            batch={"micro_batch_size": 2},
            optimizer={"peak_learning_rate": 1e-3},
        )
        for packing in (True, False)
    )
    assert packed.data == unpacked.data
    for one, other in zip(read_losses(packed), read_losses(unpacked), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
