from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from biomedllama_cli.errors import DataError, OutputError
from biomedllama_cli.recipes.curves import curves
from biomedllama_cli.settings.curves import CurvesSettings

LINES = [
    {"step": 0, "validation/loss": 5.0},
    {"step": 1, "train/loss": 4.0, "train/tokens_per_second": 10.0, "tokens_seen": 60, "train/loss/pmc": 4.0},
    {
        "step": 2,
        "train/loss": 3.0,
        "train/tokens_per_second": 10.0,
        "tokens_seen": 120,
        "train/loss/pmc": 3.0,
    },
]


def write_run(folder: Path, text: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES) + text)
    return folder


def test_a_run_that_is_still_writing_a_line_is_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", '{"step": 3, "train/lo')
    (drawn,) = curves(CurvesSettings(run=run, svg=True, smoothing=0.0)).runs
    assert [path.name for path in drawn.pictures] == ["loss_curve.png", "loss_curve.svg"]
    assert all(path.stat().st_size > 1000 for path in drawn.pictures)
    assert (drawn.step, drawn.loss, drawn.validation_loss, drawn.tokens_seen) == (2, 3.0, 5.0, 120)
    assert drawn.loss_by_source == {"pmc": 3.0}


def test_the_newest_run_of_the_workspace_is_taken(tmp_path: Path) -> None:
    old, new = write_run(tmp_path / "runs" / "z"), write_run(tmp_path / "runs" / "a" / "seed-1")
    os.utime(old / "metrics.jsonl", (1, 1))
    (drawn,) = curves(CurvesSettings(workspace=tmp_path)).runs
    assert drawn.run_folder == new


def test_every_seed_of_a_run_is_drawn(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "run" / f"seed-{seed}")
    report = curves(CurvesSettings(run=tmp_path / "run", output_dir=tmp_path / "pictures"))
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "seed-0-loss_curve.png",
        "seed-1-loss_curve.png",
    ]
    assert len(report.runs) == 2


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    report = curves(CurvesSettings(run=run), dry_run=True)
    assert report.lines()[-1] == "Nothing was written."
    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no metrics\.jsonl"):
        curves(CurvesSettings(run=tmp_path))
    with pytest.raises(DataError, match="is no folder"):
        curves(CurvesSettings(run=tmp_path / "missing"))
    with pytest.raises(DataError, match="holds none that has begun"):
        curves(CurvesSettings(workspace=tmp_path))


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        '{"train/loss": 1.0}',
        "[1]",
        '{"step": 3, "train/loss": "low"}',
        '{"step": 3, "train/loss": 1' + "0" * 400 + "}",
        "[" * 100_000,
    ],
    ids=["text", "no step", "list", "word", "too large", "too deep"],
)
def test_broken_metrics_are_refused_naming_the_place(tmp_path: Path, line: str) -> None:
    run = write_run(tmp_path / "run", line + "\n")
    with pytest.raises(DataError, match="is broken after its 3 lines"):
        curves(CurvesSettings(run=run))


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        curves(CurvesSettings(run=run, output_dir=tmp_path / "file" / "below"))
