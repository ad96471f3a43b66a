"""Tiny random models for the recipes that score one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from chat_file_runs import write_questions
from tiny_llama import TinyModel, build_tiny_model


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
    from biomedllama_cli.recipes.evaluate_subject import _tell_lowered

    _tell_part.cache_clear()
    _tell_lowered.cache_clear()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Return models of 43,168 random parameters and 512 positions."""
    folder = tmp_path_factory.mktemp("models")
    folders = TinyModels(folder / "plain", folder / "other", folder / "with-bos")
    build_tiny_model(folders.plain, adds_bos=False)
    build_tiny_model(folders.other, adds_bos=False, seed=1)
    build_tiny_model(folders.with_bos, adds_bos=True)
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


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A model that goes on with whatever it is given."""
    return build_tiny_model(tmp_path_factory.mktemp("chatty"), adds_bos=False, seed=3)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A file of fourteen questions."""
    return write_questions(tmp_path / "questions.jsonl")
