from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from small_corpora import read_sample, write_corpus

from biomedllama_cli.cli.app import run
from biomedllama_cli.engine.loader import RunData
from biomedllama_cli.engine.rows import PackedRows
from biomedllama_cli.engine.saved_runs import find_checkpoint
from biomedllama_cli.engine.sequence_frames import SEQUENCE_LOG, FedStep, Start, read_frames
from biomedllama_cli.engine.sequence_log import SequenceLog
from biomedllama_cli.engine.sharding import World
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.errors import DataError, Resumable
from biomedllama_cli.recipes import certify as certify_recipe
from biomedllama_cli.recipes.certify import CertifyReport, certify
from biomedllama_cli.recipes.pretrain import pretrain
from biomedllama_cli.recipes.pretrain_plan import plan_run
from biomedllama_cli.settings.certify import CertifySettings
from biomedllama_cli.settings.pretrain import PretrainSettings

Build = Callable[..., PretrainSettings]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two corpora of the same tokenizer: some 30 sequences of 256 tokens or so, and another few."""
    folder = tmp_path_factory.mktemp("corpora")
    first = write_corpus(folder / "papers", read_sample(30), vocabulary_size=380)
    second = write_corpus(folder / "notes", read_sample(30), vocabulary_size=380)
    return first, second


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def build(corpora: tuple[Path, Path], tmp_path: Path) -> Build:
    """Return a builder of settings for short runs of two epochs; sections are merged."""

    def build_settings(**changes: object) -> PretrainSettings:
        tree: dict[str, object] = {
            "workspace": tmp_path,
            "corpus": corpora[0],
            "model": "scratch:tiny",
            "output_dir": tmp_path / "runs" / "run",
            "batch": {"sequence_length": 256, "micro_batch_size": 5, "global_batch_size": 10},
            "duration": {"epochs": 2},
            "numerics": {"precision": "fp32"},
            "parallel": {"device": "cpu"},
            "checkpoint": {"save_every_steps": 4, "keep_checkpoints": 9},
            "monitor": {"validate_every_steps": 1000, "general": ["none"]},
        }
        for name, value in changes.items():
            tree[name] = tree.get(name, {}) | value if isinstance(value, dict) else value  # type: ignore[operator]
        return PretrainSettings.model_validate(tree)

    return build_settings


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End a run after it has logged a step, in the middle of what it logs of the next."""
    note = SequenceLog.note

    def note_or_die(self: SequenceLog, facts: Any) -> Any:
        if facts.step == step + 1:
            self._append(b"\xb1SEQ\x40\0\0\0half")
            raise Killed
        return note(self, facts)

    monkeypatch.setattr(SequenceLog, "note", note_or_die)


def look(folder: Path, **changes: Any) -> CertifyReport:
    return certify(CertifySettings(run=folder, **changes))


def test_a_run_with_every_kind_of_history_is_certified(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "run"
    for number, last in enumerate((2, 6, 7)):  # killed before the first checkpoint, and twice after it
        with monkeypatch.context() as patch:
            kill_after(patch, last)
            with pytest.raises(Killed):
                pretrain(build())
        report = look(folder)
        assert report.verdict == "certified so far"
        assert (report.step, report.steps_ahead) == [(0, 2), (4, 2), (4, 3)][number]
    with monkeypatch.context() as patch:
        looks = iter(range(1, 100))
        patch.setattr(StopRequest, "requested", property(lambda self: next(looks) == 2))
        with pytest.raises(Resumable, match="after step 6"):
            pretrain(build())
    trained = pretrain(build(batch={"micro_batch_size": 2}))
    report = look(folder)
    assert (report.verdict, report.problems, report.problem) == ("certified", (), None)
    assert [start.step for start in report.starts] == [0, 0, 4, 4, 6]
    assert report.steps_undone == 2 + 2 + 3
    assert report.contents == "checked"
    assert (report.step, report.total_steps) == (trained.steps, trained.steps)
    assert [(epoch.fed, epoch.whole) for epoch in report.epochs] == [(trained.sequences, True)] * 2
    assert report.damage_is_of_kills
    assert report.damaged_bytes == 3 * len(b"\xb1SEQ\x40\0\0\0half")
    # The same from the log alone, counted by hand: the steps that no later start has undone.
    kept: dict[int, list[int]] = {}
    for entry in read_frames(folder / SEQUENCE_LOG):
        if isinstance(entry, FedStep):
            kept[entry.step] = entry.ids.tolist()
    counts = Counter(sequence for ids in kept.values() for sequence in ids if sequence >= 0)
    assert set(counts) == set(range(trained.sequences))
    assert set(counts.values()) == {2}


def feed(monkeypatch: pytest.MonkeyPatch, step: int, change: Callable[[list[list[int]]], Any]) -> None:
    """Make the loader give other rows in one step than the order says."""
    original = RunData.micro_batches

    def micro_batches(self: RunData, number: int, rank: int) -> Any:
        rows = original(self, number, rank)
        return change(rows) if number == step else rows

    monkeypatch.setattr(RunData, "micro_batches", micro_batches)


def test_what_was_really_fed_counts_and_not_what_should_have_been(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        feed(patch, 3, lambda rows: [rows[0], rows[0]])  # a loader that gives the first half twice
        pretrain(build(duration={"epochs": 1}))
    report = look(tmp_path / "runs" / "run")
    assert report.verdict == "not certified"
    (epoch,) = report.epochs
    assert (epoch.missing, epoch.repeated) == (5, 5)
    assert len(report.problems) == 3
    assert report.problems[0] == "What was fed in step 3 is not what the order of the run gives."
    assert "are missing." in report.problems[1]
    assert "are fed too often." in report.problems[2]
    assert report.problem is not None
    assert report.problem.exit_code == 3


def test_rows_swapped_inside_a_step_are_told_though_each_comes_once(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        feed(patch, 2, lambda rows: rows[::-1])
        pretrain(build(duration={"epochs": 1}))
    report = look(tmp_path / "runs" / "run")
    assert report.problems == ("What was fed in step 2 is not what the order of the run gives.",)
    assert (report.epochs[0].missing, report.epochs[0].repeated) == (0, 0)


def test_text_that_changed_under_the_run_is_told(
    build: Build, corpora: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(corpora[0], copy)
    pretrain(build(corpus=copy, duration={"epochs": 1}))
    folder = tmp_path / "runs" / "run"
    assert look(folder).verdict == "certified"
    shard = copy / "train-00000.bin"
    tokens = bytearray(shard.read_bytes())
    tokens[len(tokens) // 2] ^= 1  # one token, not told in the manifest
    shard.write_bytes(tokens)
    report = look(folder)
    assert len(report.problems) == 1
    assert report.problems[0].startswith("What was fed in step")
    assert look(folder, contents=False).verdict == "certified"
    shutil.rmtree(copy)
    report = look(folder)
    assert (report.verdict, report.contents) == ("certified", "not checked")
    assert look(folder, corpus=(corpora[0],)).contents == "checked"
    with pytest.raises(DataError, match="is not what the run was trained on"):
        look(folder, corpus=(corpora[1], corpora[0]))


def test_sources_with_weights_come_as_often_as_they_say(
    build: Build, corpora: tuple[Path, Path], tmp_path: Path
) -> None:
    trained = pretrain(
        build(mix=[corpora[1]], weight=["papers/pile=1.5", "notes/pile=0.5"], duration={"epochs": 3})
    )
    report = look(tmp_path / "runs" / "run")
    assert (report.verdict, report.contents) == ("certified", "checked")
    assert len(report.epochs) == 3
    assert trained.mixture == {"papers/pile": 1.5, "notes/pile": 0.5}


def test_a_longer_run_from_a_last_step_that_was_not_full_is_refused_or_named(
    build: Build, tmp_path: Path
) -> None:
    """The rows that filled up the last step of the shorter run stand where the longer one has sequences."""
    short = pretrain(build(duration={"epochs": 1}))
    assert short.sequences % 10
    longer = build(resume=str(short.checkpoint), output_dir=tmp_path / "longer")
    with pytest.raises(DataError, match="filled up"):
        pretrain(longer)
    before = (short.run_folder / "checkpoints" / "step-00000004").resolve()
    longer = build(resume=str(before), output_dir=tmp_path / "longer")
    pretrain(longer)
    assert look(tmp_path / "longer").verdict == "certified"


def test_a_run_that_ends_inside_an_epoch_does_not_claim_every_sequence(build: Build, tmp_path: Path) -> None:
    pretrain(build(duration={"max_steps": 2}))
    report = look(tmp_path / "runs" / "run")
    assert (report.verdict, report.epochs[0].whole, report.epochs[0].fed) == ("certified", False, 20)
    assert report.lines()[0].endswith("the run ended inside its last epoch.")


def test_a_checkpoint_that_these_steps_did_not_make_is_told(build: Build, tmp_path: Path) -> None:
    report = pretrain(build(duration={"max_steps": 4}))
    assert report.checkpoint is not None
    progress = report.checkpoint / "training_state" / "progress.json"
    content = json.loads(progress.read_text())
    progress.write_text(json.dumps(content | {"tokens_seen": content["tokens_seen"] + 1}))
    (problem,) = look(report.run_folder).problems
    assert "it is not what these steps made" in problem


def test_a_step_that_is_not_in_the_log_is_named(build: Build, tmp_path: Path) -> None:
    report = pretrain(build(duration={"epochs": 1}))
    path = report.run_folder / SEQUENCE_LOG
    frames = [entry.encode() for entry in read_frames(path) if getattr(entry, "step", 0) != 2]  # type: ignore[union-attr]
    path.write_bytes(b"".join(frames))
    problems = look(report.run_folder).problems
    assert "The log does not say what step 2 fed." in problems
    assert any(problem.startswith("Epoch 1: sequences") for problem in problems)
    impossible = FedStep.of(2, np.full(10, -(2**40)), np.zeros(10, np.int64), targets=1, was_updated=True)
    path.write_bytes(b"".join([*frames[:2], impossible.encode(), *frames[2:]]))
    assert look(report.run_folder).problems[-1].startswith("What was fed in step 2 is not what")


def test_a_checkpoint_saved_while_the_log_is_read_is_no_problem(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = pretrain(build(duration={"epochs": 1})).run_folder
    log, newest, whole = run / SEQUENCE_LOG, find_checkpoint(run), (run / SEQUENCE_LOG).read_bytes()
    assert newest is not None
    early = [entry for entry in read_frames(log) if getattr(entry, "step", 0) <= 5]
    log.write_bytes(b"".join(entry.encode() for entry in early))  # type: ignore[union-attr]
    away = newest.rename(tmp_path / "not-yet-saved")

    def read_while_training(path: Path) -> Iterator[Any]:
        entries = list(read_frames(path))
        log.write_bytes(whole)
        away.rename(newest)
        yield from entries

    monkeypatch.setattr(certify_recipe, "read_frames", read_while_training)
    report = look(run, contents=False)
    assert (report.verdict, report.step, report.steps_ahead) == ("certified so far", 4, 1), report.problems


def test_a_checkpoint_removed_while_the_log_is_read_is_no_problem(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pretrain(build(duration={"max_steps": 2})).run_folder
    newest = find_checkpoint(run)
    assert newest is not None

    def read_while_training(path: Path) -> Iterator[Any]:
        shutil.rmtree(newest)
        yield from list(read_frames(path))

    with monkeypatch.context() as patch:
        patch.setattr(certify_recipe, "read_frames", read_while_training)
        report = look(run)
    assert (report.verdict, report.checkpoint) == ("certified", newest)
    (newest / "training_state").mkdir(parents=True)
    for file in ("COMPLETE", "training_state/progress.json"):
        (newest / file).write_text("{}")
    with pytest.raises(DataError, match=r"^run: the training state of .* cannot be read"):
        look(run)


def test_the_command_prints_one_document_and_ends_with_the_code(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "run"
    pretrain(build(duration={"epochs": 1}))
    capsys.readouterr()
    assert run(["certify", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "certified"
    monkeypatch.chdir(tmp_path)
    assert run(["certify"]) == 0  # the newest run of the workspace
    assert capsys.readouterr().out.startswith("Certified: every sequence")
    os.truncate(folder / SEQUENCE_LOG, (folder / SEQUENCE_LOG).stat().st_size - 1)
    assert run(["certify", str(folder)]) == 3
    told = capsys.readouterr()
    assert told.out.startswith("Not certified:\n  - The log does not say what step")
    assert "is not certified" in told.err


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "is no run folder"),
        (lambda folder: (folder / "settings.json").write_text('{"job": {}}'), "has no log of its sequences"),
        (
            lambda folder: (folder / "settings.json").write_text('{"job": {"command": "finetune"}}'),
            "is a run of finetune",
        ),
    ],
)
def test_what_has_no_log_is_refused(tmp_path: Path, prepare: Callable[[Path], Any], message: str) -> None:
    prepare(tmp_path)
    with pytest.raises(DataError, match=message):
        look(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xb1SEQ\2\0\0\0"])
def test_a_log_without_a_start_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.json").write_text('{"job": {}}')
    (tmp_path / SEQUENCE_LOG).write_bytes(content)
    with pytest.raises(DataError, match="no start of a run can be read"):
        look(tmp_path)
    assert not np.any([path.name == "report.json" for path in tmp_path.iterdir()])


SOUND: dict[str, Any] = {
    "started": "now",
    "world_size": 1,
    "data_ranks": 1,
    "order": {},
    "mixture": {"names": ["a", "b"], "blocks": [[[0, 4], [6, 1]], [[4, 2]]], "weights": [1, 0.5]},
    "global_batch_size": 2,
    "positions": 6,
    "total_steps": 3,
    "seed": 0,
    "sequence_length": 8,
    "corpora": ["/\0"],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mixture.weights", [1]),
        ("mixture.names", []),
        ("mixture.weights", [1, math.nan]),
        ("mixture.weights", [1, 1e300]),
        ("mixture.weights", [0, 0]),
        ("mixture.blocks", [[[0, 4], [6, 1]], [[5, 1]]]),
        ("mixture.blocks", [[[0, 0]], [[0, 0]]]),
        ("mixture.blocks", [[[0, 4], [6, -1]], [[4, 2]]]),
        ("mixture.blocks", [[[0, 10**30]], [[10**30, 2]]]),
        ("global_batch_size", 10**30),
        ("positions", 10**30),
        ("corpora", []),
    ],
)
def test_a_log_whose_start_cannot_be_true_is_refused(tmp_path: Path, path: str, value: Any) -> None:
    (tmp_path / "settings.json").write_text('{"job": {}}')
    fed = FedStep.of(1, np.array([0, -9]), np.zeros(2, np.int64), targets=1, was_updated=True)
    (tmp_path / SEQUENCE_LOG).write_bytes(Start(0, SOUND).encode() + fed.encode())
    (tmp_path / "report.json").write_text("{}")
    assert look(tmp_path).verdict == "not certified"
    section, _, name = path.rpartition(".")
    changed = {section: SOUND[section] | {name: value}} if section else {name: value}
    (tmp_path / SEQUENCE_LOG).write_bytes(Start(0, SOUND | changed).encode() + fed.encode())
    with pytest.raises(DataError, match=f"cannot be read: a start says of its {section or name}"):
        look(tmp_path)


def test_a_spike_is_left_out_told_and_certified(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From the settings to the log: the 20th step is taught one rare token, after a window of eight."""
    original = PackedRows.__getitems__

    def spoil(self: PackedRows, indices: Any) -> Any:
        batch = original(self, indices)
        if list(indices) in spoiled:
            batch["labels"] = torch.full_like(batch["labels"], 255)
        return batch

    settings = build(
        monitor={"spike_window": 8, "spike_deviations": 30.0},
        optimizer={"peak_learning_rate": 1e-2},
        duration={"epochs": 6},
    )
    planned = plan_run(settings, World(1, 1)).order.step_sequences(20)
    spoiled = planned.reshape(2, 5).tolist()
    monkeypatch.setattr(PackedRows, "__getitems__", spoil)
    trained = pretrain(settings)
    assert trained.spikes == 1
    assert any(line.startswith("Spikes: ") and "left out" in line for line in trained.lines())
    report = look(tmp_path / "runs" / "run", contents=False)
    assert report.verdict == "certified"
    assert report.updates_left_out == (20,)
    assert any("step 20: the" in record.getMessage() for record in caplog.records)
