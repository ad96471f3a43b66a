"""Tokenizers and chat templates, made once per test run."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mask_checks import LoadModel, LoadPlain

    from biomedllama_cli.models.chat_template import Template
    from biomedllama_cli.models.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def load_model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> LoadModel:
    from chat_models import load_chat_model  # loads transformers

    root = tmp_path_factory.mktemp("chat")

    @cache
    def load(kind: str, name: str) -> tuple[Tokenizer, Template]:
        file = None
        if kind == "llama":
            file = request.getfixturevalue("shared_data") / "tokenizer" / "llama" / "tokenizer.model"
        return load_chat_model(kind, name, root / f"{kind}-{name}", file)

    return load


@pytest.fixture(scope="session")
def load_plain(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> LoadPlain:
    from chat_models import build_sentencepiece, save_byte_level

    from biomedllama_cli.models.tokenizer import load_tokenizer

    root = tmp_path_factory.mktemp("plain")

    @cache
    def load(kind: str) -> Tokenizer:
        if kind == "llama":
            folder = request.getfixturevalue("shared_data") / "tokenizer" / "llama"
            return load_tokenizer(str(folder / "tokenizer.model"))
        if kind == "sentencepiece":
            return build_sentencepiece(root / "trained")
        return load_tokenizer(str(save_byte_level(root / "byte-level", ["<s>", "</s>"], adds_bos=True)))

    return load
