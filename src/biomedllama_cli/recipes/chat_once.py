"""One question and its answer, for scripts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from biomedllama_cli.chat.conversation import Reply, name_model
from biomedllama_cli.chat.retrieval.library import Library
from biomedllama_cli.chat.session import Asking, ChatSession
from biomedllama_cli.chat.transcript import load_conversation, save_conversation
from biomedllama_cli.chat.transcript_facts import TranscriptFacts, collect_facts, describe_difference
from biomedllama_cli.recipes.chat_load import Voice
from biomedllama_cli.recipes.chat_report import FINISHES, ChatReport, build_report
from biomedllama_cli.settings.chat import ChatSettings
from biomedllama_cli.wording import name_count

logger = logging.getLogger(__name__)


def answer_question(
    question: str, settings: ChatSettings, voices: Sequence[Voice], library: Library | None
) -> ChatReport:
    """Ask the models one question, at the end of a loaded conversation where there is one.

    Args:
        question: of the user.
        settings: of the chat.
        voices: one, or two that are compared.
        library: what the question is looked up in.

    Raises:
        SettingsError: the question does not fit the context, or the template does not take it.
        OutputError: the transcript cannot be written.
    """
    session = begin_session(settings, voices, library)
    asking = session.begin(question)
    exchange = session.finish(asking, [_answer(session, asking, number) for number in range(len(voices))])
    for voice, reply in zip(voices, (exchange.reply, exchange.other), strict=False):
        if reply is None:
            continue
        if reply.dropped_turns:
            count = name_count(reply.dropped_turns, "turn")
            logger.warning(
                "%s: the context has no room for the oldest %s, left out", voice.facts["source"], count
            )
        if reply.finish in FINISHES:
            logger.warning("%s: %s", voice.facts["source"], FINISHES[reply.finish])
    path = settings.transcript.save
    if path is not None and not save(session, path, voices, library):
        logger.warning("the reply is empty, so there is no conversation to save: %s is not written", path)
    return build_report(
        tuple(voice.facts for voice in voices),
        voices[0].speaker.style.name,
        settings.seed,
        exchange,
        looked_up=library is not None,
    )


def begin_session(settings: ChatSettings, voices: Sequence[Voice], library: Library | None) -> ChatSession:
    """Return a new conversation, or the one that is loaded; a system message that was given replaces a loaded one.

    Raises:
        DataError: the transcript cannot be read, or is none.
    """
    other_source = name_model(voices[1].facts) if len(voices) > 1 else ""
    session = ChatSession([voice.speaker for voice in voices], settings, library, other_source=other_source)
    if settings.transcript.load is not None:
        for said in resume(session, settings.transcript.load, voices, library):
            logger.warning("%s", said)
        if settings.style.system:
            session.set_system(settings.style.system)
    return session


def resume(session: ChatSession, path: Path, voices: Sequence[Voice], library: Library | None) -> list[str]:
    """Go on with the last conversation of a file, and return what is to be known of it.

    Raises:
        DataError: the file cannot be read, or is no transcript.
    """
    conversation, saved = load_conversation(path)
    difference = describe_difference(saved, describe(session, voices, library))
    # Last: where Ctrl-C breaks this off, the session goes on with what it had.
    session.resume(conversation, conversation_id=saved.id, created=saved.created)
    return [] if difference is None else [difference]


def save(session: ChatSession, path: Path, voices: Sequence[Voice], library: Library | None) -> bool:
    """Write the conversation into a file, and return whether there was anything to write.

    Raises:
        OutputError: the file cannot be written, or is no transcript.
    """
    return save_conversation(path, session.conversation, describe(session, voices, library))


def describe(session: ChatSession, voices: Sequence[Voice], library: Library | None) -> TranscriptFacts:
    """Return what a transcript says of the session besides its conversation."""
    other = voices[1].facts if len(voices) > 1 else None
    return collect_facts(session, voices[0].facts, other, None if library is None else library.identity)


def _answer(session: ChatSession, asking: Asking, number: int) -> Reply:
    stream = session.stream(asking, number)
    for _ in stream:
        pass
    return stream.reply
