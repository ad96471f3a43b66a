"""Fixtures every test may use."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

# Tests never reach a hub: what needs one is tested for its offline error.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data beside the checkout, or skip."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        if os.environ.get("REQUIRE_SHARED_DATA"):
            pytest.fail(
                "the shared data must be there when REQUIRE_SHARED_DATA is set, as the project's CI does"
            )
        pytest.skip("the shared data is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def pubmed_files() -> Any:
    """Return the module that writes PubMed files, whatever folder pytest was started in."""
    name = "biomedllama_tests_pubmed_files"
    if name not in sys.modules:
        path = REPOSITORY / "tests" / "corpus" / "pubmed_files.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
