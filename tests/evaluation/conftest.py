"""Tiny models for everything that scores one."""

from __future__ import annotations

import pytest
from tiny_llama import TinyModel, build_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A model whose tokenizer adds nothing by default."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), adds_bos=False)


@pytest.fixture(scope="session")
def tiny_model_with_bos(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A model whose tokenizer puts BOS first by default."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny-bos"), adds_bos=True)
