"""Results as a picture: a panel per task, a dot with its 95 % interval per model."""

from __future__ import annotations

import io
import math
import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomedllama_cli.errors import DataError, OutputError, SettingsError
from biomedllama_cli.evaluation.cells import Results
from biomedllama_cli.report.leaderboard_arrangement import Leaderboard, arrange
from biomedllama_cli.report.leaderboard_columns import BoardColumn
from biomedllama_cli.report.tables import show_controls

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
# Okabe and Ito 2008, "Color universal design", without its yellow, which is too pale for a dot on white. Seven colours
# and twelve markers have no common divisor: 84 models differ in one or the other.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "*")
_PANELS_BESIDE = 3
_PANEL_WIDTH, _ROW_HEIGHT, _LETTER_WIDTH = 2.9, 0.27, 0.085
"""In inches."""
_LONGEST_NAME = 40
_LONGEST_TITLE = 30
"""In letters."""
_DPI = 150
_MOST_PIXELS = 60_000
"""Of one side; the renderer refuses 65,536."""


def check_picture(path: Path) -> None:
    """Refuse a picture of another kind than PNG or SVG.

    Raises:
        SettingsError: the name ends otherwise.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise SettingsError(
            f"plot is {str(path)!r}; its name must end in {' or '.join(SUFFIXES)}",
            "As in --plot results.png.",
        )


def plot_results(results: Sequence[Results], path: Path) -> None:
    """Draw the headline of every task with its interval, models below each other, the best on top.

    Only results of one protocol on the same items share a panel.

    Args:
        results: of one or more evaluations.
        path: .png or .svg file; it appears complete or not at all.

    Raises:
        SettingsError: the name ends otherwise.
        DataError: there is nothing to draw.
        OutputError: the file cannot be written.
    """
    plot_leaderboard(arrange([(str(number), one) for number, one in enumerate(results)]), path)


def plot_leaderboard(board: Leaderboard, path: Path) -> None:
    """Draw a leaderboard as `plot_results` does.

    Raises:
        SettingsError: the name ends otherwise.
        DataError: there is nothing to draw.
        OutputError: the file cannot be written.
    """
    check_picture(path)
    if not board.rows:
        raise DataError(f"plot {path} would be empty: there are no results", "Evaluate a model first.")
    _write(path, _render(board, path.suffix.lower()))


def _render(board: Leaderboard, suffix: str) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box
        matplotlib.rcdefaults()  # the same picture whatever the user's own style
        matplotlib.rcParams["svg.hashsalt"] = "biomedllama"
        figure = _draw(board)
        if suffix == ".svg":
            FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
        else:
            # Agg's own canvas, not pyplot: no display is asked for and no global state is left behind.
            figure.set_dpi(min(_DPI, _MOST_PIXELS / max(figure.get_size_inches())))
            FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def _draw(board: Leaderboard) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    names = shorten_names([show_controls(row.model) for row in board.rows])
    profiles = list(dict.fromkeys(column.profile for column in board.columns))
    beside = min(_PANELS_BESIDE, len(board.columns))
    below = math.ceil(len(board.columns) / beside)
    titles = [_title(column, len(profiles) > 1) for column in board.columns]
    title_lines = 1 + max(title.count("\n") for title in titles)
    size = (
        0.4 + _LETTER_WIDTH * max(map(len, names)) + _PANEL_WIDTH * beside,
        0.9 + below * (0.8 + 0.2 * title_lines + _ROW_HEIGHT * len(names)),
    )
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    panels = figure.subplots(below, beside, squeeze=False)
    for number, panel in enumerate(panels.flat):
        if number >= len(board.columns):
            panel.set_axis_off()
            continue
        _draw_panel(panel, board, board.columns[number])
        panel.set_title(titles[number], fontsize=10, parse_math=False)
        # Names once per line of panels; a lone panel in the last line is its first.
        shown = names if number % beside == 0 else [""] * len(names)
        panel.set_yticks(range(len(names)), shown, fontsize=9, parse_math=False)
    word = "Profile" if len(profiles) == 1 else "Profiles"
    figure.suptitle(
        show_controls(f"{word} {', '.join(profiles)} (bars: 95 % intervals)"), fontsize=12, parse_math=False
    )
    _add_legend(figure)
    return figure


def _draw_panel(axes: Axes, board: Leaderboard, column: BoardColumn) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, row in enumerate(board.rows):
        cell = row.cells.get(column.title)
        if cell is None:
            continue
        low, high = cell.interval or (cell.value, cell.value)
        axes.errorbar(
            cell.value,
            place,
            xerr=[[max(0.0, cell.value - low)], [max(0.0, high - cell.value)]],
            color=_COLOURS[place % len(_COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=6,
            capsize=3,
            linewidth=1.4,
        )
    for value, style in zip((column.random, column.majority), _baseline_styles(), strict=True):
        if value is not None:
            axes.axvline(value, zorder=0, **style)
    axes.set_ylim(len(board.rows) - 0.4, -0.6)  # the first on top
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(_label(column), fontsize=9, parse_math=False)


def _baseline_styles() -> tuple[dict[str, Any], dict[str, Any]]:
    dashed, dotted = (0, (5, 3)), (0, (1.5, 1.5))
    return (
        {"color": "0.45", "linewidth": 1.2, "linestyle": dashed, "label": "random"},
        {"color": "0.15", "linewidth": 1.2, "linestyle": dotted, "label": "majority"},
    )


def _add_legend(figure: Figure) -> None:
    handles: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=8, frameon=False
        )


def _title(column: BoardColumn, names_profile: bool) -> str:
    """Return the column's title in lines, without the profile where the picture's title has it."""
    task, profile, *rest = column.title.removeprefix(column.task).split(" \N{MIDDLE DOT} ")
    parts = [f"{column.task}{task}", *([profile] if names_profile else []), *rest]
    text = show_controls(", ".join(part for part in parts if part != "bits per byte"))
    return "\n".join(textwrap.wrap(text, _LONGEST_TITLE, break_on_hyphens=False)) or text


def _label(column: BoardColumn) -> str:
    if column.kind == "text":
        return f"bits per byte (lower is better)\nn = {column.n:,} documents"
    return f"accuracy ({show_controls(column.score)})\nn = {column.n:,}"


def shorten_names(names: Sequence[str]) -> list[str]:
    """Leave out the middle of long names, unless two would then be one.

    >>> shorten_names(["organisation/a-model-of-medical-text-step-12000", "short"])
    ['organisation/a-mode…cal-text-step-12000', 'short']
    """
    half = (_LONGEST_NAME - 1) // 2
    short = [
        name if len(name) <= _LONGEST_NAME else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"
        for name in names
    ]
    return [name if short.count(cut) > 1 else cut for name, cut in zip(names, short, strict=True)]


def _write(path: Path, content: bytes) -> None:
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.write_bytes(content)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"plot {path} cannot be written ({error.strerror or error})") from error
