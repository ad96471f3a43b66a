"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomedllama_cli.engine.metrics import iter_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_loss_curve(metrics_file: Path, picture: Path) -> None:
    """Draw training loss (raw and smoothed), validation loss and learning rate over the steps, as PNG.

    Args:
        metrics_file: a run's metrics.jsonl.
        picture: file to write.
    """
    # Agg's own canvas, not pyplot: no display is asked for and no global state is left behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = list(iter_metrics(metrics_file))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    _draw_losses(
        axes,
        [line for line in lines if "train/loss" in line],
        [line for line in lines if "validation/loss" in line],
    )
    rates = [(line["step"], line["train/learning_rate"]) for line in lines if "train/learning_rate" in line]
    if rates:
        beside = axes.twinx()
        beside.plot(*zip(*rates, strict=True), color="0.6", linewidth=1, linestyle=":", label="learning rate")
        beside.set_ylabel("learning rate")
        beside.set_ylim(bottom=0)
        beside.legend(loc="lower left")
    FigureCanvasAgg(figure).print_png(str(picture))


def _draw_losses(axes: Axes, training: list[dict[str, Any]], validation: list[dict[str, Any]]) -> None:
    if training:
        steps = [line["step"] for line in training]
        losses = [line["train/loss"] for line in training]
        axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8, label="training loss")
        axes.plot(steps, smooth(losses), color="tab:blue", linewidth=1.6, label="training loss, smoothed")
    if validation:
        axes.plot(
            [line["step"] for line in validation],
            [line["validation/loss"] for line in validation],
            color="tab:orange",
            marker="o",
            markersize=4,
            label="validation loss",
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    if training or validation:
        axes.legend(loc="upper right")


def smooth(values: Sequence[float], weight: float = 0.95) -> list[float]:
    """Return the running exponential average, corrected for its start, which would else pull towards 0.

    >>> smooth([2.0, 2.0, 2.0])
    [2.0, 2.0, 2.0]
    >>> [round(value, 3) for value in smooth([4.0, 0.0], weight=0.5)]
    [4.0, 1.333]
    """
    smoothed, average, mass = [], 0.0, 0.0
    for value in values:
        average = weight * average + (1 - weight) * value
        mass = weight * mass + (1 - weight)
        smoothed.append(average / mass)
    return smoothed
