"""Settings of `biomedllama curves`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from biomedllama_cli.settings.base import POSITIONAL, Settings


class CurvesSettings(Settings):
    """Draw the loss, learning rate, gradient norm and throughput of a run, also while it trains."""

    run: Annotated[Path | None, POSITIONAL] = None
    """Run folder; of a folder that holds one for every seed, each is drawn [default: the newest in the workspace]."""
    workspace: Path = Path(".")
    """Folder that holds `runs/`."""
    output_dir: Path | None = None
    """Folder for the pictures [default: the run folder]."""
    svg: bool = False
    """Write an SVG beside the PNG."""
    over: Literal["steps", "tokens"] = "steps"
    """What the curves are drawn over: steps, or target tokens seen."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Share of the past in the running average of the training loss (a fraction)."""
