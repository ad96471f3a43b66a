"""Speakers with tiny random models, for everything that talks to one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import ZEPHYR
from pty_chat import PtyProgram, start_chat
from tiny_llama import POSITIONS, TinyModel, build_tiny_model

from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.chat.style import Wanted, choose_style
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer
from biomedllama_cli.settings.chat import ReplySettings

MakeSpeaker = Callable[..., Speaker]
Start = Callable[..., PtyProgram]


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A tiny random LLaMA, byte-level and without BOS, whose folder has a chat template.

    What it says is text: it never writes half a character, nor a control token, so its replies end by their length.
    """
    tiny = build_tiny_model(tmp_path_factory.mktemp("tiny-chat"), adds_bos=False, seed=3)
    tokenizer = load_tokenizer(str(tiny.folder))
    unsaid = [i for i in range(tokenizer.vocabulary_size) if not tokenizer.decode([i]).strip("\ufffd")]
    with torch.no_grad():
        tiny.model.lm_head.weight[unsaid] = 0.0  # the largest of the other scores is above that
    tiny.model.save_pretrained(tiny.folder)
    (tiny.folder / "chat_template.jinja").write_text(ZEPHYR)
    return tiny


@pytest.fixture(scope="session")
def tiny_chat_folder(tiny_chat_model: TinyModel) -> Path:
    """Its folder: what `--model` would name."""
    return tiny_chat_model.folder


@pytest.fixture(scope="session")
def tiny_chat_tokenizer(tiny_chat_folder: Path) -> Tokenizer:
    """Its tokenizer."""
    return load_tokenizer(str(tiny_chat_folder))


@pytest.fixture
def make_speaker(tiny_chat_model: TinyModel, tiny_chat_tokenizer: Tokenizer) -> MakeSpeaker:
    """A function that gives a new speaker of the tiny model, which has read nothing yet."""

    def make(style: Wanted = "instructed", *, context_length: int = POSITIONS) -> Speaker:
        chosen = choose_style(tiny_chat_tokenizer, str(tiny_chat_model.folder), style)
        return Speaker(tiny_chat_model.model, tiny_chat_tokenizer, chosen, context_length=context_length)

    return make


@pytest.fixture
def tiny_speaker(make_speaker: MakeSpeaker) -> Speaker:
    """A new speaker that is written to as the prompts of `instruct` are."""
    return make_speaker()


@pytest.fixture
def short_reply() -> ReplySettings:
    """Twelve of the likeliest tokens at most."""
    return ReplySettings(max_new_tokens=12, temperature=0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where a chat that `start` begins writes what its model was given."""
    return tmp_path / "asked.jsonl"


@pytest.fixture
def start(log: Path) -> Start:
    """A function that begins a chat on a terminal of its own, ready for the first question."""

    def begin(*arguments: str, settings: dict[str, Any] | None = None, **window: Any) -> PtyProgram:
        chat = start_chat("--log", str(log), "--settings", json.dumps(settings or {}), *arguments, **window)
        chat.expect(" · chat >")
        return chat

    return begin
