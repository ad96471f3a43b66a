from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from planted_results import question_cell, results, text_cell

from biomedllama_cli.errors import DataError, OutputError, SettingsError
from biomedllama_cli.evaluation.cells import Results
from biomedllama_cli.report.evaluation_plots import plot_results


def plant(models: int, name: str = "organisation/model-{}") -> list[Results]:
    return [
        results(
            question_cell(400 + 10 * number),
            question_cell(500 + 10 * number, task="pubmedqa", n=1000, metrics={"majority": 0.552}),
            text_cell(0.9 - 0.01 * number),
            source=name.format(number),
            weights_sha256=f"{number:064d}",
        )
        for number in range(models)
    ]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    drawn: list[Any] = []
    plain = Figure.__init__
    monkeypatch.setattr(
        Figure, "__init__", lambda self, *args, **named: (drawn.append(self), plain(self, *args, **named))[1]
    )
    return drawn


def test_a_panel_shows_values_intervals_and_baselines(tmp_path: Path, figures: list[Any]) -> None:
    plot_results(plant(2), tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    assert figure.get_suptitle() == "Profile paper/1 (bars: 95 % intervals)"
    medqa, text, pubmedqa = figure.axes
    assert [axes.get_title() for axes in figure.axes] == [
        "medqa, 0-shot",
        "pubmed-abstracts",
        "pubmedqa, 0-shot",
    ]
    assert "n = 1,273" in medqa.get_xlabel()
    assert "lower is better" in text.get_xlabel()
    assert [label.get_text() for label in medqa.get_yticklabels()] == [
        "organisation/model-1",
        "organisation/model-0",
    ]
    best, other = medqa.containers
    value, low, high = 410 / 1273, *question_cell(410).metrics.scores["acc"].interval
    assert best.lines[0].get_xdata() == pytest.approx([value])
    (bar,) = best.lines[2]
    assert sorted(bar.get_segments()[0][:, 0]) == pytest.approx([low, high])
    assert best.lines[0].get_marker() != other.lines[0].get_marker()
    assert best.lines[0].get_color() != other.lines[0].get_color()
    lines = {
        line.get_label(): line for line in pubmedqa.get_lines() if line.get_label() in ("random", "majority")
    }
    assert {name: line.get_xdata()[0] for name, line in lines.items()} == {"random": 0.25, "majority": 0.552}
    assert all(line.is_dashed() for line in lines.values())
    assert not any(line.get_label() in ("random", "majority") for line in text.get_lines())


@pytest.mark.parametrize("models", [1, 8, 12])
def test_no_text_of_a_picture_covers_other_text(tmp_path: Path, figures: list[Any], models: int) -> None:
    name = "organisation-{}/biomedical-llama-7b-instructed-for-a-long-time"
    plot_results(plant(models, name), tmp_path / "results.png")
    (figure,) = figures
    boxes = []
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
        texts = [axes.title, axes.xaxis.label, *ticks, *axes.get_yticklabels()]
        boxes += [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > models + 6
    for number, box in enumerate(boxes):
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_results_that_are_not_comparable_have_panels_of_their_own(tmp_path: Path, figures: list[Any]) -> None:
    one = results(question_cell(400), source="a", weights_sha256="1" * 64)
    two = results(question_cell(400, items_sha256="9" * 64), source="b", weights_sha256="2" * 64)
    plot_results([one, two], tmp_path / "results.png")
    assert [len(axes.containers) for axes in figures[0].axes] == [1, 1]


def test_an_svg_is_the_same_in_every_process(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from planted_results import *; "
        "from biomedllama_cli.report.evaluation_plots import plot_results; "
        "plot_results([results(question_cell(400))], Path(sys.argv[1]))"
    )
    plot_results([results(question_cell(400))], tmp_path / "one.svg")
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, tmp_path / "two.svg"], check=True, env=environment)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two
    assert b"<dc:date>" not in one
    assert ElementTree.fromstring(one).tag.endswith("svg")


def test_names_are_shown_as_they_are_and_never_as_formulas(tmp_path: Path, figures: list[Any]) -> None:
    plot_results(plant(1, "$x^2$\n{}|模型\\frac"), tmp_path / "results.svg")
    (label,) = figures[0].axes[0].get_yticklabels()
    assert label.get_text() == "$x^2$ 0|模型\\frac"
    assert not label.get_parse_math()


def test_another_kind_of_file_is_refused_with_the_rule(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"must end in \.png or \.svg"):
        plot_results(plant(1), tmp_path / "results.pdf")


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="would be empty"):
        plot_results([], tmp_path / "results.png")


def test_a_place_that_cannot_be_written_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "results.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        plot_results(plant(1), tmp_path / "results.png")
    assert [path.name for path in tmp_path.iterdir()] == ["results.png"]


def test_a_style_of_the_user_changes_nothing(tmp_path: Path) -> None:
    import matplotlib

    plot_results(plant(1), tmp_path / "plain.svg")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        plot_results(plant(1), tmp_path / "styled.svg")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "styled.svg").read_bytes()
