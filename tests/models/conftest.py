"""Tiny models, made once per test run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load_tiny() -> ModuleType:
    """Import tiny.py under one name, whatever folder pytest was started in."""
    name = "biomedllama_tests_tiny"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("tiny.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def tiny() -> Any:
    """Return the module that builds tiny models."""
    return _load_tiny()


@pytest.fixture(scope="session")
def tiny_folder(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a family's tiny model, written once; do not write into it."""

    @cache
    def build(family: str) -> Path:
        folder: Path = tiny.build_tiny(family, tmp_path_factory.mktemp(family))
        return folder

    return build
