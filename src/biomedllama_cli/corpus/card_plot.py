"""The histogram of a data card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from biomedllama_cli.corpus.card_counts import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")


def plot_lengths(lengths: Sequence[Row], picture: Path) -> None:
    """Draw how many documents, and how many tokens, there are of each length, as PNG.

    Args:
        lengths: rows of (source, k): documents of 2^k to 2^(k+1) - 1 tokens.
        picture: file to write.
    """
    # Agg's own canvas, not pyplot: no display is asked for and no global state is left behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained", dpi=144)
    left, right = figure.subplots(1, 2, sharex=True)
    _draw_bars(left, lengths, "documents")
    _draw_bars(right, lengths, "tokens")
    handles, labels = left.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("Lengths of the documents", fontsize=12)
    # Without the library's version inside, the same corpus has the same picture.
    FigureCanvasAgg(figure).print_png(str(picture), metadata={"Software": None})


def _draw_bars(axes: Axes, lengths: Sequence[Row], measure: str) -> None:
    from matplotlib.ticker import EngFormatter

    exponents = [int(row.kind[1] or 0) for row in lengths]
    first, last = (min(exponents), max(exponents)) if exponents else (0, 1)
    places = list(range(first, last + 1))
    bottom = [0] * len(places)
    for number, source in enumerate(dict.fromkeys(row.kind[0] for row in lengths)):
        heights = [0] * len(places)
        for row, exponent in zip(lengths, exponents, strict=True):
            if row.kind[0] == source:
                heights[exponent - first] += getattr(row, measure)
        axes.bar(
            places, heights, width=1, align="edge", bottom=bottom, label=str(source),
            color=_COLOURS[number % len(_COLOURS)], edgecolor="white", linewidth=0.6,
        )  # fmt: skip
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
    step = max((len(places) + 7) // 8, 1)
    ticks = list(range(first, last + 2, step))
    axes.set_xticks(ticks, [f"{1 << exponent:,}" for exponent in ticks])
    axes.set_xlabel("tokens per document")
    axes.set_ylabel(measure)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
