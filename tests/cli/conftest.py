"""Run the command line as a process, or in this process with a recipe of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from biomedllama_cli.cli.app import run

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class FakeReport(BaseModel):
    """What the test's recipe hands back."""

    schema_version: str = "test/1"
    seed: int
    dry_run: bool

    def lines(self) -> list[str]:
        return [f"seed {self.seed}", f"dry run {self.dry_run}"]


@pytest.fixture
def process(tmp_path: Path) -> Run:
    """Return a function that runs `biomedllama ARGUMENTS` as a real process in an empty folder."""

    def start(*arguments: str, environment: dict[str, str] | None = None) -> Any:
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BIOMEDLLAMA_", "_BIOMEDLLAMA_")) and name not in ("RANK", "COLUMNS")
        }
        source = str(Path(sys.modules["biomedllama_cli"].__file__ or "").parent.parent)
        return subprocess.run(
            [sys.executable, "-m", "biomedllama_cli", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**ours, "PYTHONPATH": source, "PYTHONIOENCODING": "utf-8", **(environment or {})},
            check=False,
        )

    return start


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Return a function that puts a function in the place of the recipe of `prepare`."""
    for name in [name for name in os.environ if name.startswith("BIOMEDLLAMA_")] + ["RANK"]:
        monkeypatch.delenv(name, raising=False)

    def replace(function: Callable[..., Any]) -> None:
        module = types.ModuleType("biomedllama_cli.recipes.prepare")
        module.prepare = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return replace


@pytest.fixture
def fake_prepare(recipe: Callable[[Callable[..., Any]], None]) -> Callable[..., int]:
    """Return `run` with a recipe of `prepare` that only reports what it was given."""
    recipe(lambda settings, *, dry_run: FakeReport(seed=settings.seed, dry_run=dry_run))
    return run
