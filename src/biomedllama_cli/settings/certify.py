"""Settings of `biomedllama certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from biomedllama_cli.settings.base import POSITIONAL, Settings


class CertifySettings(Settings):
    """Prove that a pretraining run was fed every sequence of every epoch exactly once."""

    run: Annotated[Path | None, POSITIONAL] = None
    """Run folder [default: the newest pretraining run in the workspace]."""
    workspace: Path = Path(".")
    """Folder that holds `runs/`."""
    corpus: tuple[Path, ...] = ()
    """Corpora of the run, where they have moved since; repeatable [default: where the run read them]."""
    contents: bool = True
    """Read every sequence again and hold the checksum of what was fed against it."""
