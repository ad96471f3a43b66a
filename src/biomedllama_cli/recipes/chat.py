"""`biomedllama chat`: talk to a model at the terminal, or ask it one question, or a file of them."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.recipes.chat_model import find_chat_model, find_source
from biomedllama_cli.settings.chat import ChatSettings
from biomedllama_cli.wording import name_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from biomedllama_cli.recipes.chat_exam import ExamReport
    from biomedllama_cli.recipes.chat_file_report import FileReport
    from biomedllama_cli.recipes.chat_report import ChatPlan, ChatReport

logger = logging.getLogger(__name__)

STDIN_LIMIT = 1 << 20
"""Longest question that is read from stdin (in characters)."""


def chat(
    settings: ChatSettings, *, dry_run: bool = False, as_json: bool = False
) -> ChatReport | ExamReport | ChatPlan | FileReport | None:
    """Answer one question, a file of them, or whoever sits at the terminal.

    Args:
        settings: the whole tree of this command.
        dry_run: say what would be loaded and asked.
        as_json: whether the answer is to be a document, which a conversation at the terminal does not give.

    Returns:
        The report; None after a conversation at the terminal.

    Raises:
        SettingsError: nothing is asked and there is no terminal, or settings contradict each other.
        DataError: a file is missing or broken.
        ModelError: there is no model, or it cannot be used.
        UnavailableError: a hub, a device or a package is not to be had.
        OutputError: a file cannot be written.
        Resumable: stopped by a signal; the same command continues.
    """
    asked = settings.questions
    question = read_question(settings, as_json=as_json) if asked.file is None and asked.mc is None else None
    sources = [find_chat_model(settings)]
    if settings.compare is not None:
        sources.append(find_source(settings.compare))
    if dry_run:
        return _plan(settings, sources, question)

    if asked.mc is not None:
        from biomedllama_cli.chat.exam_text import parse_exam
        from biomedllama_cli.recipes.chat_exam import ask_exam

        put = parse_exam(asked.mc)  # before the model, which takes longer to load than a mistake to be told
        return ask_exam(put, settings, sources)

    from biomedllama_cli.recipes.chat_load import load_voices, open_library, tell_styles  # loads torch

    check_files(settings)  # before the minutes that a model may take
    library = open_library(settings.sources)
    if asked.file is not None:
        from biomedllama_cli.recipes.chat_file import answer_file, find_answers

        done = find_answers(settings, sources, library)
        if done is not None:
            return done
        voices = load_voices(sources, settings)
        tell_styles(voices)
        facts = [voice.facts for voice in voices]
        return answer_file(settings, [voice.speaker for voice in voices], facts, library)
    voices = load_voices(sources, settings)
    if question is not None:
        from biomedllama_cli.recipes.chat_once import answer_question

        tell_styles(voices)
        return answer_question(question, settings, voices, library)
    from biomedllama_cli.recipes.chat_terminal import hold_conversation

    hold_conversation(settings, voices, library)
    return None


def read_question(settings: ChatSettings, *, as_json: bool) -> str | None:
    """Return the one question that is asked, by `--prompt` or on stdin; None where somebody sits at a terminal.

    Raises:
        SettingsError: nothing is asked and nobody sits there, or a document is wanted of a conversation.
        DataError: what stdin holds is no text, or too long.
    """
    if settings.questions.prompt is not None:
        return settings.questions.prompt
    if sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty():
        if as_json:
            raise SettingsError(
                "json is for answers to questions that are given, and a conversation at the terminal prints none.",
                "Give a question (--prompt, or `echo question | biomedllama chat`) or a file of them (--file).",
            )
        return None
    question = _read_stdin()
    if not question.strip():
        raise SettingsError(
            "nothing is asked: stdin is no terminal and holds no question.",
            "Give a question (--prompt, or `echo question | biomedllama chat`) or a file of them (--file).",
        )
    return question


def check_files(settings: ChatSettings) -> None:
    """Check the files that are named before anything is loaded.

    Raises:
        DataError: the conversation to go on with cannot be read.
        OutputError: the transcript cannot be written, or is another file.
    """
    from biomedllama_cli.chat.transcript import check_transcript, load_conversation

    if settings.transcript.save is not None:
        check_transcript(settings.transcript.save)
    if settings.transcript.load is not None:
        load_conversation(settings.transcript.load)


def _read_stdin() -> str:
    if sys.stdin is None or sys.stdin.closed:
        return ""
    try:
        raw = sys.stdin.buffer.read(4 * STDIN_LIMIT + 1)
    except OSError:  # a descriptor that was closed before the program began
        return ""
    try:
        content = "" if len(raw) > 4 * STDIN_LIMIT else raw.decode("utf-8-sig")  # Windows begins with a mark
    except UnicodeDecodeError:
        raise DataError("the question on stdin is not UTF-8.", "Convert it: iconv -t UTF-8.") from None
    if len(raw) > 4 * STDIN_LIMIT or len(content) > STDIN_LIMIT:
        raise DataError(
            f"the question on stdin is longer than {STDIN_LIMIT:,} characters.",
            "Many questions are for --file, one JSON line each.",
        )
    return content


def _plan(settings: ChatSettings, sources: Sequence[str], question: str | None) -> ChatPlan:
    from biomedllama_cli.recipes.chat_report import ChatPlan

    file, corpus = settings.questions.file, settings.sources.corpus
    if settings.questions.mc is not None:
        from biomedllama_cli.chat.exam_text import parse_exam

        asks = f"one multiple-choice question: {parse_exam(settings.questions.mc).question}"
    elif file is not None:
        from biomedllama_cli.chat.questions_file import read_questions

        count = len(read_questions(file, settings.style.system))
        asks = f"{name_count(count, 'question')} of {file}, answers to {settings.questions.output}"
    else:
        asks = "whoever sits at the terminal" if question is None else f"one question: {question.strip()}"
    if corpus is not None:
        from biomedllama_cli.corpus.manifest import load_manifest

        load_manifest(corpus)
    if settings.transcript.save or settings.transcript.load:
        check_files(settings)
    return ChatPlan(
        model=sources[0],
        other=sources[1] if len(sources) > 1 else None,
        asks=asks,
        corpus=None if corpus is None else str(corpus),
    )
