from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from biomedllama_cli.report.plots import plot_loss_curve

LINES = [
    {"step": 0, "validation/loss": 4.0, "validation/bits_per_byte": 3.0},
    {"step": 1, "train/loss": 4.0, "train/learning_rate": 0.1},
    {"step": 2, "train/loss": 3.0, "train/learning_rate": 0.2},
    {"step": 2, "validation/loss": 3.5, "validation/bits_per_byte": 2.5},
]


def test_the_picture_shows_losses_validation_and_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    plain = Figure.__init__
    monkeypatch.setattr(
        Figure,
        "__init__",
        lambda self, *args, **named: (figures.append(self), plain(self, *args, **named))[1],
    )
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    plot_loss_curve(metrics, tmp_path / "loss_curve.png")
    assert (tmp_path / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    drawn = {
        line.get_label(): line.get_xydata().tolist() for axes in figures[0].axes for line in axes.get_lines()
    }
    assert drawn["training loss"] == [[1, 4.0], [2, 3.0]]
    assert drawn["validation loss"] == [[0, 4.0], [2, 3.5]]
    assert drawn["learning rate"] == [[1, 0.1], [2, 0.2]]
    assert drawn["training loss, smoothed"][1][1] == pytest.approx((0.95 * 4 + 3) / 1.95)


def test_a_run_without_steps_still_gets_its_picture(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    plot_loss_curve(tmp_path / "metrics.jsonl", tmp_path / "loss_curve.png")
    assert (tmp_path / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
