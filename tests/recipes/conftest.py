"""Tiny random models for the recipes that score one."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class TinyModels:
    """Folders of models: two of the same tokenizer without BOS, one whose tokenizer puts BOS first."""

    plain: Path
    other: Path
    with_bos: Path


@pytest.fixture(autouse=True)
def _say_again() -> None:
    """Let each test see what is said once in a process."""
    from biomedllama_cli.recipes.evaluate_inputs import _tell_part

    _tell_part.cache_clear()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> TinyModels:
    """Return models of 43,168 random parameters and 512 positions."""
    build = _load_builder(repository).build_tiny_model
    folder = tmp_path_factory.mktemp("models")
    folders = TinyModels(folder / "plain", folder / "other", folder / "with-bos")
    build(folders.plain, adds_bos=False)
    build(folders.other, adds_bos=False, seed=1)
    build(folders.with_bos, adds_bos=True)
    return folders


@pytest.fixture
def model(tiny_models: TinyModels) -> Path:
    """Return the folder of the model whose tokenizer adds nothing."""
    return tiny_models.plain


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a mixture of three made-up sources."""
    from tuning_runs import write_mixture

    return write_mixture(tmp_path_factory.mktemp("mixture"))


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels) -> Path:
    """Return the folder of a model that brings a chat template."""
    from tuning_runs import CHAT_TEMPLATE

    folder = tmp_path_factory.mktemp("chat") / "chat-model"
    shutil.copytree(tiny_models.plain, folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


def _load_builder(repository: Path) -> Any:
    name = "biomedllama_tests_evaluation_conftest"
    spec = importlib.util.spec_from_file_location(name, repository / "tests" / "evaluation" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module
