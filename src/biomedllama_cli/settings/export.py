"""Settings of `biomedllama export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from biomedllama_cli.settings.base import POSITIONAL, Settings


class ExportSettings(Settings):
    """Make a plain transformers folder of a checkpoint, with a model card; no GPU is needed."""

    checkpoint: Annotated[Path | None, POSITIONAL] = None
    """Checkpoint, or run folder, whose best or newest one is taken [default: the newest in the workspace]."""
    folder: Annotated[Path | None, POSITIONAL] = None
    """Folder to make; it must not be there, or be empty."""
    workspace: Path = Path(".")
    """Folder that holds `runs/`."""
    dtype: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Type of the weights in the folder; checkpoints hold fp32."""
    name: str | None = None
    """Name of the model on its card [default: that of the folder]."""
