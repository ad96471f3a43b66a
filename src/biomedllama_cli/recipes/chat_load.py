"""Load what a chat needs: one speaker or two, and the corpus that questions are looked up in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from biomedllama_cli.chat.retrieval.library import Library
from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.chat.style import choose_style
from biomedllama_cli.corpus.manifest import load_manifest
from biomedllama_cli.recipes.chat_model import load_chat_model
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.chat import ChatSettings, SourceSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Voice:
    """A speaker, and what a transcript says of its model.

    `facts` are those of `recipes.chat_model.ChatModel`, and `template`, the name of the speaker's style.
    """

    speaker: Speaker
    facts: dict[str, Any]


def load_voice(source: str, settings: ChatSettings) -> Voice:
    """Load a model and choose how conversations are written for it.

    Args:
        source: as `recipes.chat_model.find_source` names it.
        settings: of the chat.

    Raises:
        ModelError: the model cannot be used.
        UnavailableError: a hub, a device or a package is not to be had.
        SettingsError: a chat template is asked for and the model has none.
    """
    loaded = load_chat_model(source, settings.compute)
    style = choose_style(loaded.tokenizer, source, settings.style.template)
    speaker = Speaker(loaded.model, loaded.tokenizer, style, context_length=loaded.context_length)
    return Voice(speaker, {**loaded.facts, "template": style.name})


def load_voices(sources: Sequence[str], settings: ChatSettings) -> list[Voice]:
    """Load the models of a chat.

    Raises:
        UserError: see `load_voice`.
    """
    return [load_voice(source, settings) for source in sources]


def tell_styles(voices: Sequence[Voice]) -> None:
    """Say on the log how each model is spoken to, where no terminal shows it."""
    for voice in voices:
        logger.info("%s is given %s", voice.facts["source"], voice.speaker.style.reason)


def open_library(sources: SourceSettings) -> Library | None:
    """Open the corpus, where one was given; its index is built the first time.

    Raises:
        DataError: the folder holds no corpus, or a damaged one.
        OutputError: an index is needed, and the folder cannot be written.
    """
    if sources.corpus is None:
        return None
    documents = load_manifest(sources.corpus).documents.kept
    bar = Progress(f"indexing {sources.corpus}", documents, "documents")
    with ExitStack() as shown:

        def advance(count: int) -> None:
            if not bar.started:  # nothing is shown where the index is there already
                shown.enter_context(bar)
            bar.advance(count)

        return Library.open(
            sources.corpus,
            passage_words=sources.passage_words,
            rebuild=sources.rebuild_index,
            advance=advance,
        )
