"""Pictures of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from biomedllama_cli.engine.metrics import SOURCE_LOSS, iter_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 4000
"""Of one drawn line; more than a picture has columns."""
_WIDE = 30
"""Largest / smallest gradient norm from which they are drawn on a logarithmic axis."""
_BITS, _DELTA = "/bits_per_byte", "/delta"
LOSS_CURVE = "loss_curve"
"""Name of the pictures in a run folder, without their ending."""
LOSS_CURVE_FILE = f"{LOSS_CURVE}.png"


@dataclass(frozen=True)
class CurveStyle:
    """How curves are drawn.

    Attributes:
        over: steps, or target tokens seen.
        smoothing: share of the past in the running average of the training loss (a fraction).
    """

    over: Literal["steps", "tokens"] = "steps"
    smoothing: float = 0.95


def plot_loss_curve(metrics_file: Path, *pictures: Path) -> None:
    """Draw training loss (raw and smoothed), validation loss, learning rate, gradient norm and throughput of a run.

    The losses of each source, and what the general sets have lost, are drawn where they were measured.

    Args:
        metrics_file: a run's metrics.jsonl; a run that trains may be writing to it.
        pictures: files to write, each in the format of its ending: png or svg.

    Raises:
        ValueError: a line of the metrics is broken.
        OSError: a picture cannot be written.
    """
    save(draw_curves(list(iter_metrics(metrics_file)), CurveStyle()), pictures)


def save(figure: Figure, pictures: Iterable[Path]) -> None:
    """Write a figure, so that who looks at a file sees the old picture or the new one, never a part."""
    import matplotlib as mpl

    # The same numbers give the same bytes: neither a date nor random ids.
    with mpl.rc_context({"svg.hashsalt": "biomedllama"}):
        for picture in pictures:
            kind = picture.suffix.removeprefix(".")
            temporary = picture.with_name(f".{picture.name}.tmp")
            metadata = {"Date": None} if kind == "svg" else {}
            temporary.unlink(missing_ok=True)  # a link of that name would be followed
            try:
                figure.savefig(temporary, format=kind, dpi=120, metadata=metadata)
                temporary.replace(picture)
            finally:
                temporary.unlink(missing_ok=True)


def draw_curves(lines: Sequence[Mapping[str, Any]], style: CurveStyle) -> Figure:
    """Return the figure of a run's metrics: the losses large, everything else in small panels below."""
    # No pyplot: no display is asked for and no global state is left behind.
    from matplotlib.figure import Figure

    places = locate(lines, style.over)
    drawn = _Drawn(lines, places, style)
    rows = [[_draw_losses], [_draw_learning_rate, _draw_gradient_norm, _draw_throughput]]
    where_measured = []
    if len(drawn.names(SOURCE_LOSS)) > 1:  # of one source it is the training loss
        where_measured.append(_draw_sources)
    if drawn.changes():
        where_measured.append(_draw_general)
    if where_measured:
        rows.append(where_measured)
    figure = Figure(figsize=(10, 2.2 + 2.3 * len(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), 1, height_ratios=[2.0] + [1.0] * (len(rows) - 1))
    for number, row in enumerate(rows):
        columns = grid[number].subgridspec(1, len(row))
        for column, draw in enumerate(row):
            axes = figure.add_subplot(columns[column])
            draw(axes, drawn)
            axes.grid(alpha=0.3)
            axes.set_xlabel("step" if style.over == "steps" else "target tokens seen")
            if style.over == "tokens":
                axes.xaxis.set_major_formatter(_thousands())
    return figure


def _thousands() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def locate(lines: Sequence[Mapping[str, Any]], over: str) -> list[float]:
    """Return where on the horizontal axis each line of the metrics belongs.

    A look at held-out text has no tokens of its own: it has those of its step.

    >>> locate([{"step": 0}, {"step": 1, "tokens_seen": 64}, {"step": 1}], "tokens")
    [0.0, 64.0, 64.0]
    """
    if over == "steps":
        return [float(line["step"]) for line in lines]
    told = (line for line in lines if line.get("tokens_seen") is not None)
    tokens = {line["step"]: float(line["tokens_seen"]) for line in told}
    return [tokens.get(line["step"], 0.0 if line["step"] == 0 else math.nan) for line in lines]


@dataclass(frozen=True)
class _Drawn:
    """The metrics of a run with their places."""

    lines: Sequence[Mapping[str, Any]]
    places: Sequence[float]
    style: CurveStyle

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Return places and values of a metric; what was not finite is a gap."""
        pairs = [
            (place, math.nan if line[name] is None else float(line[name]))
            for place, line in zip(self.places, self.lines, strict=True)
            if name in line
        ]
        return [place for place, _ in pairs], [value for _, value in pairs]

    def names(self, start: str, end: str = "") -> list[str]:
        """Return the metrics whose names begin and end so, in the order in which they first come."""
        every = dict.fromkeys(name for line in self.lines for name in line)
        return [name for name in every if name.startswith(start) and name.endswith(end)]

    def changes(self) -> list[str]:
        """Return the metrics that say how the bits per byte of some texts have changed since before the first step."""
        # Questions have a `delta` too: that of their accuracy.
        texts = {name.removesuffix(_BITS) for name in self.names("", _BITS)}
        return [name for name in self.names("", _DELTA) if name.removesuffix(_DELTA) in texts]

    def draw(self, axes: Axes, name: str, label: str, *, color: str, raw: bool = True) -> None:
        """Draw a metric of every step: its values pale, their running average over them."""
        places, values = self.series(name)
        label = show_name(label)
        if not places:
            return
        if raw:
            axes.plot(*thin(places, values), color=color, alpha=0.25, linewidth=0.8, label=label)
        average = smooth(values, self.style.smoothing)
        axes.plot(*thin(places, average), color=color, linewidth=1.6, label=f"{label}, smoothed")


def _draw_losses(axes: Axes, drawn: _Drawn) -> None:
    drawn.draw(axes, "train/loss", "training loss", color="tab:blue")
    places, losses = drawn.series("validation/loss")
    if places:
        axes.plot(places, losses, color="tab:orange", marker="o", markersize=4, label="validation loss")
    axes.set_ylabel("loss (nats per token)")
    if axes.get_lines():
        axes.legend(loc="upper right")


def _draw_learning_rate(axes: Axes, drawn: _Drawn) -> None:
    places, rates = drawn.series("train/learning_rate")
    axes.plot(*thin(places, rates), color="0.4", linewidth=1.4, label="learning rate")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)


def _draw_gradient_norm(axes: Axes, drawn: _Drawn) -> None:
    drawn.draw(axes, "train/grad_norm", "gradient norm", color="tab:red")
    axes.set_ylabel("gradient norm")
    norms = [value for value in drawn.series("train/grad_norm")[1] if value > 0]
    if norms and max(norms) > _WIDE * min(norms):
        axes.set_yscale("log")


def _draw_throughput(axes: Axes, drawn: _Drawn) -> None:
    drawn.draw(axes, "train/tokens_per_second", "throughput", color="tab:green")
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_thousands())
    places, shares = drawn.series("mfu")
    if places:
        beside = axes.twinx()
        beside.plot(*thin(places, smooth(shares, drawn.style.smoothing)), alpha=0, label="MFU, smoothed")
        beside.set_ylabel("MFU")
        beside.set_ylim(bottom=0)


def _draw_sources(axes: Axes, drawn: _Drawn) -> None:
    for number, name in enumerate(drawn.names(SOURCE_LOSS)):
        drawn.draw(axes, name, name.removeprefix(SOURCE_LOSS), color=f"C{number}", raw=False)
    axes.set_ylabel("training loss by source")
    axes.legend(fontsize="x-small")


def _draw_general(axes: Axes, drawn: _Drawn) -> None:
    for name in drawn.changes():
        kind, _, label = name.removesuffix(_DELTA).rpartition("/")
        if kind != "general":
            label = f"{label} ({kind})"
        axes.plot(*drawn.series(name), marker="o", markersize=3, label=show_name(label))
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_ylabel("change in bits per byte")
    axes.legend(fontsize="x-small")


def show_name(name: str) -> str:
    r"""Return a name for a legend, which would read a formula between dollars, and leave out what begins with _.

    >>> show_name("a$b"), show_name("_news")
    ('a\\$b', ' _news')
    """
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def thin(
    places: Sequence[float], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float]]:
    """Return at most so many points: of every stretch of the line its lowest and its highest, so that no peak is lost.

    >>> thin([1, 2, 3, 4, 5, 6], [0, 9, 1, 2, 3, 1], most=4)
    ([1, 2, 5, 6], [0, 9, 3, 1])
    >>> thin([1, 2], [5, 6])
    ([1, 2], [5, 6])
    """
    count = len(places)
    if count <= most:
        return list(places), list(values)
    stretches = most // 2
    kept: list[int] = []
    for number in range(stretches):
        stretch = range(number * count // stretches, (number + 1) * count // stretches)
        finite = [place for place in stretch if not math.isnan(values[place])] or [stretch[0]]
        kept += sorted({min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)})
    return [places[place] for place in kept], [values[place] for place in kept]


def smooth(values: Sequence[float], weight: float = 0.95) -> list[float]:
    """Return the running exponential average, corrected for its start, which would else pull towards 0.

    What is not a number leaves the average as it was.

    >>> smooth([2.0, 2.0, 2.0])
    [2.0, 2.0, 2.0]
    >>> [round(value, 3) for value in smooth([4.0, 0.0], weight=0.5)]
    [4.0, 1.333]
    >>> smooth([math.nan, 2.0, math.nan], weight=0.5)
    [nan, 2.0, 2.0]
    """
    smoothed, average, mass = [], 0.0, 0.0
    for value in values:
        if not math.isnan(value):
            average = weight * average + (1 - weight) * value
            mass = weight * mass + (1 - weight)
        smoothed.append(average / mass if mass else math.nan)
    return smoothed
