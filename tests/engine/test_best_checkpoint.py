"""The best checkpoint is kept, a run that no longer gets better ends, and a resumed run decides the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.engine.checkpoint import load_progress
from biomedllama_cli.engine.checkpoint_folder import Best
from biomedllama_cli.engine.metrics import METRICS_FILE, iter_metrics
from biomedllama_cli.engine.saved_runs import find_checkpoint, find_newest_result, list_checkpoints, read_step
from biomedllama_cli.engine.validation import Validation
from biomedllama_cli.errors import Resumable

LOSSES = [4.0, 3.0, 2.0, 2.5, 2.2, 2.1, 1.0]


class Scripted:
    """A look at held-out text that finds the losses it is told, the first before the first step."""

    def __init__(self, losses: list[float], done: int = 0) -> None:
        self._losses = iter(losses[done:])

    def run(self, accelerator: Any, model: Any) -> Validation:
        return Validation(next(self._losses))


def build_scripted(
    build_loop: Callable[..., Any], folder: Path, done: int = 0, losses: list[float] = LOSSES, **changes: Any
) -> Any:
    loop = build_loop(
        folder, max_steps=24, validate_every_steps=4, keep_checkpoints=1, keep_best=True, **changes
    )
    object.__setattr__(loop._data, "validator", Scripted(losses, done))
    return loop


def test_the_best_checkpoint_outlives_the_newest_ones(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    losses = [4.0, 3.0, 2.0, 2.5, 2.2, 2.1, 2.05]
    tally = build_scripted(build_loop, tmp_path, losses=losses, save_every_steps=12).run()
    assert (tally.step, tally.best) == (24, Best(8, 2.0, looks_since=4))
    assert [read_step(one) for one in list_checkpoints(tmp_path)] == [8, 24]


def test_a_run_ends_when_it_no_longer_gets_better(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    tally = build_scripted(build_loop, tmp_path, patience=2).run()
    assert (tally.step, tally.best) == (16, Best(8, 2.0, looks_since=2))
    assert [read_step(one) for one in list_checkpoints(tmp_path)] == [8, 16]
    assert load_progress(tally.checkpoint).best == Best(8, 2.0, looks_since=2)
    assert [line["step"] for line in iter_metrics(tmp_path / METRICS_FILE) if "train/loss" in line][-1] == 16


def test_the_model_as_it_was_given_is_no_candidate(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    losses = [0.5, 3.0, 2.0, 2.5, 2.2, 2.1, 1.0]
    tally = build_scripted(build_loop, tmp_path, losses=losses, patience=3).run()
    assert tally.best == Best(8, 2.0, looks_since=3)


@pytest.mark.parametrize(
    ("signalled", "looks"), [(13, 4), (7, 2), (15, 4)]
)  # also right before the look at the best one, and before the last one
def test_a_resumed_run_knows_its_best_and_its_patience(
    build_loop: Callable[..., Any], after_step: Any, tmp_path: Path, signalled: int, looks: int
) -> None:
    for name in ("whole", "halted"):
        (tmp_path / name).mkdir()
    whole = build_scripted(build_loop, tmp_path / "whole", patience=2).run()
    halted = build_scripted(
        build_loop,
        tmp_path / "halted",
        patience=2,
        progress=after_step(signalled, lambda: os.kill(os.getpid(), signal.SIGTERM)),
    )
    with pytest.raises(Resumable):
        halted.run()
    checkpoint = find_checkpoint(tmp_path / "halted")
    assert checkpoint is not None
    resumed = build_scripted(build_loop, tmp_path / "halted", done=looks, patience=2, resume=checkpoint).run()
    assert (resumed.step, resumed.best) == (whole.step, whole.best)
    assert [read_step(one) for one in list_checkpoints(tmp_path / "halted")] == [8, 16]


def test_a_run_that_ended_early_has_nothing_left_to_do(
    build_loop: Callable[..., Any], tmp_path: Path
) -> None:
    ended = build_scripted(build_loop, tmp_path, patience=2).run()
    again = build_scripted(build_loop, tmp_path, done=7, patience=2, resume=ended.checkpoint).run()
    assert (again.step, again.best) == (ended.step, ended.best)


def test_a_run_has_its_best_checkpoint_or_merged_folder_to_show(
    build_loop: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    build_scripted(build_loop, run, patience=2).run()
    assert find_newest_result(tmp_path) == run / "checkpoints" / "step-00000016"
    best = run / "checkpoints" / "step-00000008"
    report = {
        "checkpoint": "elsewhere/runs/mine/checkpoints/step-00000008"
    }  # the folder has been moved since
    (run / "report.json").write_text(json.dumps(report))
    assert find_newest_result(tmp_path) == best
    (run / "report.json").write_text(json.dumps(report | {"merged": "merged"}))
    assert find_newest_result(tmp_path) == best  # there is no merged folder
    shutil.copytree(best, run / "merged")
    assert find_newest_result(tmp_path) == run / "merged"
