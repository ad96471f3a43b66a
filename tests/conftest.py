"""Fixtures every test may use."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-machine")

# Tests never reach a hub: what needs one is tested for its offline error.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Threads of several workers on one core wait for each other in busy loops: each worker gets its share of the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Leave what the tests' imports have loaded out of later collections of garbage, which take a third of a second."""
    gc.collect()
    gc.freeze()


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
    """Return the module that writes PubMed's files."""
    return _load_helper("pubmed_files")


@pytest.fixture(scope="session")
def pmc_files() -> Any:
    """Return the module that writes PubMed Central's files."""
    return _load_helper("pmc_files")


@pytest.fixture(scope="session")
def jats_files() -> Any:
    """Return the module that writes articles with more of JATS in them."""
    return _load_helper("jats_files")


@pytest.fixture(scope="session")
def jats() -> Any:
    """Return the module that writes single JATS articles and reads them."""
    return _load_helper("jats_documents")


@pytest.fixture(scope="session")
def corpora() -> Any:
    """Return the module that writes inputs of made-up words and reads corpora to compare."""
    return _load_helper("made_up_corpora")


def _load_helper(name: str) -> Any:
    """Import a module of tests/corpus under one name, whatever folder pytest was started in."""
    full = f"biomedllama_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, REPOSITORY / "tests" / "corpus" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]
