"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

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
