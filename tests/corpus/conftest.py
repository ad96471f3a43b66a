"""A tiny tokenizer, and the recipe called with keyword settings."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from biomedllama_cli.models.tokenizer import train_tokenizer
from biomedllama_cli.recipes.prepare import PrepareReport, prepare
from biomedllama_cli.settings.prepare import PrepareSettings

Prepare = Callable[..., PrepareReport]


def _load_records() -> ModuleType:
    """Import records.py under one name, whatever folder pytest was started in."""
    name = "biomedllama_tests_records"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("records.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def records() -> Any:
    """Return the module that writes input files."""
    return _load_records()


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory, records: Any) -> Path:
    """Return the folder of a vocabulary of 400 pieces."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([records.make_text(i) for i in range(50)], 400, folder, seed=0)
    return folder


@pytest.fixture
def run_prepare(tiny_tokenizer: Path, tmp_path: Path) -> Prepare:
    """Return the recipe with settings by section; output goes to `tmp_path/corpus` unless said."""

    def run(*inputs: Path | str, dry_run: bool = False, **settings: Any) -> PrepareReport:
        tree: dict[str, Any] = {"output_dir": tmp_path / "corpus", **settings}
        tree["source"] = {"input": tuple(map(str, inputs)), **settings.get("source", {})}
        tree.setdefault("tokenization", {}).setdefault("tokenizer", str(tiny_tokenizer))
        return prepare(PrepareSettings.model_validate(tree), dry_run=dry_run)

    return run
