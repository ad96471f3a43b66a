from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from biomedllama_cli.report.plots import CurveStyle, draw_curves, plot_loss_curve, save, thin

LINES = [
    {"step": 0, "validation/loss": 4.0, "validation/bits_per_byte": 3.0},
    {"step": 1, "train/loss": 4.0, "train/learning_rate": 0.1, "tokens_seen": 60},
    {"step": 2, "train/loss": 3.0, "train/learning_rate": 0.2, "tokens_seen": 120},
    {"step": 2, "validation/loss": 3.5, "validation/bits_per_byte": 2.5},
]


def read_drawn(
    lines: list[dict[str, float | None]], style: CurveStyle | None = None
) -> dict[str, list[list[float]]]:
    return {
        line.get_label(): line.get_xydata().tolist()
        for axes in draw_curves(lines, style or CurveStyle()).axes
        for line in axes.get_lines()
    }


def test_the_picture_shows_losses_validation_and_learning_rate() -> None:
    drawn = read_drawn(LINES)
    assert drawn["training loss"] == [[1, 4.0], [2, 3.0]]
    assert drawn["validation loss"] == [[0, 4.0], [2, 3.5]]
    assert drawn["learning rate"] == [[1, 0.1], [2, 0.2]]
    assert drawn["training loss, smoothed"][1][1] == pytest.approx((0.95 * 4 + 3) / 1.95)


def test_it_shows_gradient_norm_throughput_sources_and_what_is_forgotten_where_they_were_measured() -> None:
    lines = [
        {"step": 1, "train/loss": 4.0, "train/grad_norm": 2.0, "train/tokens_per_second": 50.0, "mfu": 0.25}
        | {"train/loss/pubmed": 4.5, "train/loss/pmc": 3.5},
        {"step": 2, "train/loss": 3.0, "train/grad_norm": None, "train/tokens_per_second": 70.0, "mfu": 0.5},
        {"step": 2, "general/news/bits_per_byte": 1.5, "general/news/delta": 0.125}
        | {"validation/pmc/bits_per_byte": 1.0, "validation/pmc/delta": -0.25}
        | {"general/facts/accuracy": 0.5, "general/facts/delta": 0.0625},
    ]
    drawn = read_drawn(lines)
    assert drawn["gradient norm"][0] == [1, 2.0]
    assert str(drawn["gradient norm"][1][1]) == "nan"  # a gap, not a zero
    assert drawn["throughput"] == [[1, 50.0], [2, 70.0]]
    assert drawn["MFU, smoothed"][0] == [1, 0.25]
    assert drawn["pubmed, smoothed"] == [[1, 4.5]]
    assert drawn["pmc, smoothed"] == [[1, 3.5]]
    assert drawn["news"] == [[2, 0.125]]
    assert drawn["pmc (validation)"] == [[2, -0.25]]
    assert "facts" not in drawn  # an accuracy, not bits per byte


def test_over_tokens_a_validation_stands_where_its_step_does() -> None:
    drawn = read_drawn(LINES, CurveStyle(over="tokens"))
    assert drawn["training loss"] == [[60, 4.0], [120, 3.0]]
    assert drawn["validation loss"] == [[0, 4.0], [120, 3.5]]


def test_the_pictures_have_the_format_of_their_names_and_are_the_same_again(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        plot_loss_curve(metrics, tmp_path / folder / "curve.png", tmp_path / folder / "curve.svg")
    assert (tmp_path / "one" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "one" / "curve.svg").getroot().tag.endswith("svg")
    for name in ("curve.png", "curve.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["curve.png", "curve.svg"]


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    metrics, elsewhere = tmp_path / "metrics.jsonl", tmp_path / "elsewhere"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    elsewhere.write_text("mine")
    (tmp_path / ".curve.svg.tmp").symlink_to(elsewhere)
    plot_loss_curve(metrics, tmp_path / "curve.svg")
    assert elsewhere.read_text() == "mine"
    assert not (tmp_path / "curve.svg").is_symlink()


def test_a_run_without_steps_still_gets_its_picture(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    plot_loss_curve(tmp_path / "metrics.jsonl", tmp_path / "loss_curve.png")
    assert (tmp_path / "loss_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_line_keeps_its_peaks() -> None:
    values = [1.0] * 100_000
    values[77_777] = 9.0
    places, kept = thin(range(100_000), values, most=1000)
    assert len(kept) <= 1000
    assert dict(zip(places, kept, strict=True))[77_777] == 9.0


def test_sources_may_have_any_name(tmp_path: Path) -> None:
    """Matplotlib reads a formula between dollars, which may be a broken one, and leaves `_name` out of its legend."""
    lines = [{"step": 1, "train/loss": 1.0, "train/loss/a$\\frac$b": 1.0, "train/loss/_c": 2.0}]
    figure = draw_curves(lines, CurveStyle())
    save(figure, [tmp_path / "picture.svg"])
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_ylabel() == "training loss by source"]
    assert legend is not None
    assert len(legend.get_texts()) == 2
