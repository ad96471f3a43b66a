"""`biomedllama curves`: draw what a run has measured, while it trains or afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.engine.metrics import METRICS_FILE, SOURCE_LOSS, iter_metrics
from biomedllama_cli.engine.saved_runs import find_last_writer
from biomedllama_cli.errors import DataError, OutputError
from biomedllama_cli.report.plots import LOSS_CURVE, CurveStyle, draw_curves, save, smooth
from biomedllama_cli.settings.curves import CurvesSettings
from biomedllama_cli.wording import name_count


class RunCurves(BaseModel):
    """What was drawn of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    run_folder: Path
    """The run."""
    pictures: tuple[Path, ...]
    """Files written, or that would be."""
    step: int
    """Last step measured; 0 before the first."""
    tokens_seen: int | None = None
    """Target tokens up to there."""
    loss: float | None = None
    """Training loss of that step (in nats per token)."""
    loss_smoothed: float | None = None
    """Its running average."""
    loss_by_source: dict[str, float] = {}
    """Running averages of the losses of every source."""
    validation_loss: float | None = None
    """At the last look (in nats per token)."""
    validation_step: int | None = None
    """Step of the last look."""
    tokens_per_second: float | None = None
    """Running average."""

    def lines(self) -> list[str]:
        """Return what is told of this run."""
        line = f"{self.run_folder}: step {self.step}"
        if self.loss is not None and self.loss_smoothed is not None:
            line += f", training loss {self.loss:.3f} (smoothed {self.loss_smoothed:.3f})"
        if self.validation_loss is not None:
            line += f", validation loss {self.validation_loss:.4f} at step {self.validation_step}"
        if self.tokens_per_second is not None:
            line += f", {self.tokens_per_second:,.0f} tokens/s"
        by_source = ", ".join(f"{name} {loss:.3f}" for name, loss in self.loss_by_source.items())
        return [
            line + ".",
            *([f"Training loss by source, smoothed: {by_source}."] if by_source else []),
            *(f"Picture: {picture}" for picture in self.pictures),
        ]


class CurvesReport(BaseModel):
    """What `curves` hands back."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: str = "biomedllama.curves/1"
    """Changes when a reader of this report would have to."""
    status: Literal["drawn", "would draw"]
    """What was done."""
    runs: tuple[RunCurves, ...]
    """Every run that was drawn."""

    def lines(self) -> list[str]:
        """Return the summary for people."""
        lines = [line for run in self.runs for line in run.lines()]
        return lines if self.status == "drawn" else [*lines, "Nothing was written."]


def curves(settings: CurvesSettings, *, dry_run: bool = False) -> CurvesReport:
    """Draw the curves of a run; nothing of the run is changed, so it may be training.

    Args:
        settings: the whole tree of this command.
        dry_run: say what would be drawn, and write nothing.

    Raises:
        DataError: there is no such run, or its metrics are broken.
        OutputError: a picture cannot be written.
    """
    folders = find_runs(settings.run, settings.workspace)
    drawn = tuple(draw_run(folder, settings, several=len(folders) > 1, dry_run=dry_run) for folder in folders)
    return CurvesReport(status="would draw" if dry_run else "drawn", runs=drawn)


def find_runs(run: Path | None, workspace: Path) -> list[Path]:
    """Return the folders of a run: itself, or one for every seed.

    Raises:
        DataError: nothing was measured there.
    """
    if run is None:
        newest = find_last_writer(workspace, METRICS_FILE)
        if newest is None:
            raise DataError(
                f"No run was given, and the workspace {workspace.resolve()} holds none that has begun to train.",
                hint="Give a run folder: biomedllama curves runs/NAME",
            )
        return [newest]
    seeds = sorted(file.parent for file in run.glob(f"seed-*/{METRICS_FILE}"))
    folders = [run] if (run / METRICS_FILE).is_file() else seeds
    if not folders:
        what = "holds no metrics.jsonl: no run has begun to train there" if run.is_dir() else "is no folder"
        raise DataError(f"run: {run} {what}.", hint="Give the folder that --output-dir names, runs/NAME.")
    return folders


def draw_run(folder: Path, settings: CurvesSettings, *, several: bool, dry_run: bool) -> RunCurves:
    """Draw one run, and return its last numbers."""
    lines = read_lines(folder / METRICS_FILE)
    style = CurveStyle(settings.over, settings.smoothing)
    place = settings.output_dir or folder
    name = f"{folder.name}-{LOSS_CURVE}" if several and settings.output_dir else LOSS_CURVE
    pictures = tuple(place / f"{name}.{kind}" for kind in ("png", *(["svg"] if settings.svg else [])))
    if not dry_run:
        try:
            place.mkdir(parents=True, exist_ok=True)
            save(draw_curves(lines, style), pictures)
        except OSError as error:
            raise OutputError(
                f"{place} cannot be written: {error.strerror or error}.", hint="Give another --output-dir."
            ) from error
    return RunCurves(run_folder=folder, pictures=pictures, **summarise(lines, settings.smoothing))


def read_lines(metrics_file: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; one that is being written is left out.

    Raises:
        DataError: a line is not what a run writes.
    """
    lines: list[dict[str, Any]] = []
    try:
        for line in iter_metrics(metrics_file):
            values = [value for name, value in line.items() if name != "step"]
            if not isinstance(line["step"], int) or not all(
                value is None or isinstance(value, int | float) for value in values
            ):
                raise TypeError
            for value in values:
                float(value or 0)  # a whole number may be too large to be drawn
            lines.append(line)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{metrics_file} is broken after its {name_count(len(lines), 'line')}: a line is no JSON object "
            "of numbers with a step.",
            hint="Remove the line, or resume the run, which writes what comes after its checkpoint again.",
        ) from error
    except OSError as error:
        raise DataError(f"{metrics_file} cannot be read: {error.strerror}.") from error
    return lines


def summarise(lines: Sequence[Mapping[str, Any]], smoothing: float) -> dict[str, Any]:
    """Return the last numbers of a run.

    >>> summarise([{"step": 1, "train/loss": 3.0}, {"step": 2, "train/loss": 1.0}], 0.0)["loss_smoothed"]
    1.0
    """

    def average(name: str) -> float | None:
        values = [math.nan if line[name] is None else float(line[name]) for line in lines if name in line]
        last = smooth(values, smoothing)[-1] if values else math.nan
        return None if math.isnan(last) else last

    facts: dict[str, Any] = {"step": max((line["step"] for line in lines), default=0)}
    for line in lines:
        if "train/loss" in line:
            facts |= {"tokens_seen": line.get("tokens_seen"), "loss": line["train/loss"]}
        if "validation/loss" in line:
            facts |= {"validation_loss": line["validation/loss"], "validation_step": line["step"]}
    sources = dict.fromkeys(name for line in lines for name in line if name.startswith(SOURCE_LOSS))
    by_source = {name.removeprefix(SOURCE_LOSS): average(name) for name in sources}
    return facts | {
        "loss_smoothed": average("train/loss"),
        "tokens_per_second": average("train/tokens_per_second"),
        "loss_by_source": {name: loss for name, loss in by_source.items() if loss is not None},
    }
