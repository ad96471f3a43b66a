"""`finetune` and `instruct` killed, stopped and without room: the same command ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from evaluate_forks import Ended, Forks, build_environment
from tiny_llama import build_tiny_model
from tuning_forks import write_questions

RESUMABLE = 75
LOOP, SAVING = "biomedllama_cli.engine.loop", "biomedllama_cli.engine.checkpoint"
CHECKPOINT, FOLDER = "biomedllama_cli.engine.checkpoint", "biomedllama_cli.engine.checkpoint_folder"
DRAFT, WRITER = "biomedllama_cli.engine.checkpoint_draft", "biomedllama_cli.engine.checkpoint_writer"
RECIPE, FINETUNE = "biomedllama_cli.recipes.tuning", "biomedllama_cli.recipes.finetune"
EVALUATE = "biomedllama_cli.recipes.evaluate"
JOURNAL = "biomedllama_cli.evaluation.journal"

FULL = ("--seeds", "3,4")
ALONE = ("--no-evaluate",)
PATIENT = ("--patience", "2", "--epochs", "10", "--peak-learning-rate", "1e-2", "--no-evaluate")
LORA = ("--method", "lora", "--merge", "--rank", "2", "--peak-learning-rate", "1e-2")


@dataclass
class Material:
    """A model, questions, what an undisturbed run of each command gives, and the program that forks."""

    folder: Path
    forks: Forks
    expected: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = field(default_factory=dict)

    def arguments(self, output: Path, *options: str) -> list[str]:
        """Return the command line of a run of 2 x 8 steps with three evaluations, or as the options say."""
        line = ["finetune", "--task", str(self.folder / "train.jsonl"), "--model", str(self.folder / "model")]
        line += ["--json", "--output-dir", str(output), "--test", str(self.folder / "test.jsonl")]
        line += ["--device", "cpu", "--precision", "fp32", "--decontaminate", "off", "--data-workers", "0"]
        line += ["--validation-fraction", "0.2", "--epochs", "2", "--global-batch-size", "8"]
        line += ["--sequence-length", "384", "--save-every-steps", "2", "--validate-every-steps", "3"]
        return [*line, *options]

    def reference(self, *options: str) -> tuple[Path, dict[str, Any]]:
        """Return the run folder and the report of an undisturbed run."""
        if options not in self.expected:
            output = self.folder / f"expected-{len(self.expected)}" / "out"
            ended = self.forks.run(self.arguments(output, *options))
            assert ended.code == 0, ended.errors
            self.expected[options] = output, json.loads(ended.out)
        return self.expected[options]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Material]:
    folder = tmp_path_factory.mktemp("material")
    build_tiny_model(folder / "model", adds_bos=False)
    write_questions(folder / "train.jsonl", 40)
    write_questions(folder / "test.jsonl", 3, first=100)
    forks = Forks(build_environment(repository), folder, repository / "tests" / "hostile" / "tuning_forks.py")
    yield Material(folder, forks)
    forks.close()


def read_run(folder: Path) -> dict[str, Any]:
    """Return every file of a finished run by its place: tensors as bytes, metrics without the times."""
    content: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        place = str(path.relative_to(folder))
        content[place] = path.read_bytes() if path.suffix == ".safetensors" else None
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            plain = [
                {k: v for k, v in line.items() if "second" not in k and k != "loader/wait_fraction"}
                for line in lines
            ]
            # A kill between a checkpoint and its line leaves the line out, and the steps go on after it.
            content[place] = [line for line in plain if "checkpoint/step" not in line]
    return content


def read_report(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what must be the same in the report of a run that was interrupted."""
    told = json.loads(json.dumps(report).replace(str(folder), "RUN"))
    for run in told["runs"]:
        for name in ("status", "resumed_step", "wall_seconds", "tokens_per_second"):
            del run[name]
    return told


def assert_finished(material: Material, output: Path, ended: Ended, *options: str) -> None:
    """Check that a run is that of an undisturbed one, and lies alone; once more, nothing is left to do."""
    folder, report = material.reference(*options)
    assert ended.code == 0, ended.errors
    assert read_report(json.loads(ended.out), output) == read_report(report, folder)
    assert read_run(output) == read_run(folder)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


# One start after the other ends at its place, in the call of so many of this start, and the next one goes on.
PLACES: dict[str, tuple[str, str, int]] = {
    "held-out examples encoded": ("biomedllama_cli.recipes.tuning_inputs", "encode_examples", 2),
    "settings half written": ("os", "fsync", 1),
    "model loaded": (RECIPE, "build_model", -1),
    "first look": ("biomedllama_cli.engine.tuning_validation", "TuningValidator.run", 1),
    "step": (LOOP, "train_step", 2),
    "empty files of step 2": (DRAFT, "create_file", 2),
    "weights of step 2": (WRITER, "write_tensor", 5),
    "step 2 in its place, unmarked": ("pathlib", "Path.touch", 1),
    "step 2 complete": (FOLDER, "flush_path", 2),
    "look at step 3": ("biomedllama_cli.engine.tuning_validation", "TuningValidator.run", 1),
    "old checkpoints": (SAVING, "remove_old_checkpoints", 2),
    "half an old checkpoint gone": ("shutil", "rmtree", 2),
    "last step": (LOOP, "train_step", -2),
    "loss curve": (RECIPE, "plot_loss_curve", 1),
    "report": (RECIPE, "write_atomically", 1),
    "between seeds": (FINETUNE, "tune", 2),
    "second seed": (LOOP, "train_step", 3),
    "evaluation before": (JOURNAL, "Journal.append", 2),
    "results": ("biomedllama_cli.evaluation.output", "_replace", 1),
    "results written": (EVALUATE, "remove_journal", 1),
    "evaluation after": (JOURNAL, "Journal.append", 3),
    "last table": ("biomedllama_cli.recipes.finetune_tests", "load_gains", 1),
}


# A signal in a step is answered after it or after the next one, so that these starts come further than those above.
STOPS: dict[str, tuple[str, str, int]] = {
    "held-out examples encoded": ("biomedllama_cli.recipes.tuning_inputs", "encode_examples", 2),
    "settings half written": ("os", "fsync", 1),
    "model loaded": (RECIPE, "build_model", -1),
    "first look": ("biomedllama_cli.engine.tuning_validation", "TuningValidator.run", 1),
    "weights of step 2": (WRITER, "write_tensor", 5),
    "last step": (LOOP, "train_step", 5),
    "loss curve": (RECIPE, "plot_loss_curve", 1),
    "report written": (RECIPE, "write_atomically", -1),
    "between seeds": (FINETUNE, "tune", 1),
    "second seed": (LOOP, "train_step", 3),
    "evaluation before": (JOURNAL, "Journal.append", 2),
    "results": ("biomedllama_cli.evaluation.output", "_replace", 1),
    "results written": (EVALUATE, "remove_journal", 1),
    "evaluation after": (JOURNAL, "Journal.append", 3),
    "last table": ("biomedllama_cli.recipes.finetune_tests", "load_gains", 1),
}


def test_killed_anywhere_the_same_command_ends_with_the_same_bytes(
    material: Material, tmp_path: Path
) -> None:
    arguments = material.arguments(tmp_path / "out", *FULL)
    for place, call in PLACES.items():
        killed = material.forks.run(arguments, stop=(*call, "SIGKILL"))
        assert killed.code == -signal.SIGKILL, (place, killed)
    assert_finished(material, tmp_path / "out", material.forks.run(arguments), *FULL)
    before = read_times(tmp_path / "out")
    again = material.forks.run(arguments)
    assert {run["status"] for run in json.loads(again.out)["runs"]} == {"already trained"}
    assert read_times(tmp_path / "out") == before


def test_asked_to_stop_anywhere_it_says_so_and_the_same_command_ends_with_the_same_bytes(
    material: Material, tmp_path: Path
) -> None:
    arguments, chance = material.arguments(tmp_path / "out", *FULL), random.Random(5)
    for place, call in STOPS.items():
        stopped = material.forks.run(arguments, stop=(*call, chance.choice(["SIGTERM", "SIGINT"])))
        assert stopped.code == RESUMABLE, (place, stopped)
        error = json.loads(stopped.out)["error"]
        assert (error["kind"], error["hint"][:26]) == ("Resumable", "The same command continues"), place
        assert "Traceback" not in stopped.errors, place
    assert_finished(material, tmp_path / "out", material.forks.run(arguments), *FULL)


def read_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_merging_killed_stopped_and_without_its_result_is_done_again(
    material: Material, tmp_path: Path
) -> None:
    arguments = material.arguments(tmp_path / "out", *LORA)
    merge = "biomedllama_cli.models.adapter_merge"
    for call, sent, code in (
        ((merge, "load_model", 1), "SIGKILL", -signal.SIGKILL),
        ((merge, "load_tokenizer", 1), "SIGTERM", RESUMABLE),
    ):
        assert material.forks.run(arguments, stop=(*call, sent)).code == code
        assert not (tmp_path / "out" / "merged").exists()
        assert not (tmp_path / "out" / "report.json").exists()
    assert_finished(material, tmp_path / "out", material.forks.run(arguments), *LORA)
    shutil.rmtree(tmp_path / "out" / "merged")
    assert_finished(material, tmp_path / "out", material.forks.run(arguments), *LORA)


# The best checkpoint is an early one, and older than those that are kept as the newest.
def test_patience_and_the_best_checkpoint_survive(material: Material, tmp_path: Path) -> None:
    _, report = material.reference(*PATIENT)
    (run,) = report["runs"]
    assert run["steps_done"] < run["steps"]
    assert run["best_step"] < run["steps_done"] - 2
    arguments = material.arguments(tmp_path / "out", *PATIENT)
    for call, sent in (((LOOP, "train_step", 5), "SIGKILL"), ((LOOP, "train_step", 2), "SIGTERM")):
        assert material.forks.run(arguments, stop=(*call, sent)).code in (-signal.SIGKILL, RESUMABLE)
    assert material.forks.run(arguments, stop=(RECIPE, "choose_checkpoint", 1, "SIGKILL")).code < 0
    ended = material.forks.run(arguments)
    assert json.loads(ended.out)["runs"][0]["best_step"] == run["best_step"]
    assert_finished(material, tmp_path / "out", ended, *PATIENT)


# Too little for a checkpoint's weights; enough for those, and too little for the moments.
@pytest.mark.parametrize("kilobytes", [100, 250])
def test_a_full_disk_is_one_sentence_and_a_later_start_continues(
    material: Material, tmp_path: Path, kilobytes: int
) -> None:
    arguments = material.arguments(tmp_path / "out", *ALONE)
    ended = material.forks.run(arguments, kilobytes=kilobytes)
    error = json.loads(ended.out)["error"]
    assert (ended.code, error["kind"]) == (6, "OutputError"), error
    assert "The disk of" in error["message"]
    assert "Traceback" not in ended.errors
    assert_finished(material, tmp_path / "out", material.forks.run(arguments), *ALONE)


def test_without_a_model_the_same_command_continues_its_own_run(material: Material, tmp_path: Path) -> None:
    base = tmp_path / "runs" / "base" / "checkpoints" / "step-00000009"
    shutil.copytree(material.folder / "model", base)
    (base / "COMPLETE").touch()
    arguments = material.arguments(tmp_path / "out", "--workspace", str(tmp_path), "--no-evaluate")
    for name in ("--model", "--output-dir"):
        place = arguments.index(name)
        del arguments[place : place + 2]
    stopped = material.forks.run(arguments, stop=(LOOP, "train_step", 4, "SIGTERM"))
    assert stopped.code == RESUMABLE, stopped
    for status in ("trained", "already trained"):
        ended = material.forks.run(arguments)
        (run,) = json.loads(ended.out)["runs"]
        assert run["status"] == status
        assert f"after step {run['resumed_step']} of 8" in json.loads(stopped.out)["error"]["message"]
        assert json.loads(ended.out)["model"] == str(base)


def test_a_mixture_stopped_and_killed_gives_the_same_weights_manifest_and_card(
    material: Material, tmp_path: Path
) -> None:
    source = {"source": "train", "format": "questions", "path": "train.jsonl", "licence": "CC0-1.0"}
    (material.folder / "mixture.yaml").write_text(json.dumps({"name": "made-up", "sources": [source]}))
    line = ["instruct", "--mixture", str(material.folder / "mixture.yaml"), "--draws", "24", "--epochs", "1"]
    line += ["--model", str(material.folder / "model"), "--json", "--device", "cpu", "--precision", "fp32"]
    line += ["--decontaminate", "off", "--data-workers", "1", "--global-batch-size", "4"]
    line += ["--sequence-length", "384", "--save-every-steps", "2", "--output-dir"]
    expected = material.forks.run([*line, str(tmp_path / "expected" / "run")])
    assert expected.code == 0, expected.errors
    arguments = [*line, str(tmp_path / "out" / "run")]
    stopped = material.forks.run(arguments, stop=(LOOP, "train_step", 2, "SIGTERM"))
    assert stopped.code == RESUMABLE, stopped
    killed = material.forks.run(arguments, stop=(CHECKPOINT, "publish", 2, "SIGKILL"))
    assert killed.code == -signal.SIGKILL, killed
    ended = material.forks.run(arguments)
    assert ended.code == 0, ended.errors
    reports = [json.loads(each.out.replace("/expected", "/out")) for each in (ended, expected)]
    assert reports[0]["mixture"] == reports[1]["mixture"]
    assert read_run(tmp_path / "out") == read_run(tmp_path / "expected")
    cards = [
        (tmp_path / name / "run" / "checkpoints" / "step-00000006" / "README.md").read_text()
        for name in ("out", "expected")
    ]
    assert cards[0] == cards[1].replace(str(tmp_path / "expected"), str(tmp_path / "out"))
    assert json.loads(material.forks.run(arguments).out)["runs"][0]["status"] == "already trained"
