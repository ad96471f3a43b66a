"""A conversation at the terminal: what its commands need of models, files and the corpus."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch

from biomedllama_cli.chat.exam import Exam
from biomedllama_cli.chat.exam_answer import ExamAnswer
from biomedllama_cli.chat.exam_text import parse_exam
from biomedllama_cli.chat.retrieval.library import Library
from biomedllama_cli.chat.session import Answering, ChatSession
from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.chat.terminal.app import run_terminal
from biomedllama_cli.chat.terminal.talk import Services
from biomedllama_cli.chat.terminal.words import ModelFacts, TerminalFacts
from biomedllama_cli.recipes.chat_exam import build_exam
from biomedllama_cli.recipes.chat_load import Voice, load_voice
from biomedllama_cli.recipes.chat_model import find_source
from biomedllama_cli.recipes.chat_once import begin_session, resume, save
from biomedllama_cli.settings.chat import ChatSettings
from biomedllama_cli.wording import name_count


def hold_conversation(settings: ChatSettings, voices: list[Voice], library: Library | None) -> None:
    """Talk with whoever sits at the terminal, until they leave.

    Args:
        settings: of the chat.
        voices: one, or two that are compared; the list is emptied, so that it keeps no model in memory that somebody
            lets go.
        library: what questions are looked up in.

    Raises:
        Resumable: a signal ended it, and the conversation is saved.
        OutputError: a file of the chat cannot be written.
    """
    session = begin_session(settings, voices, library)
    models = _Models(settings, voices)
    facts = TerminalFacts(tuple(describe_voice(voice) for voice in voices), _describe_library(library))
    voices.clear()

    def save_session(path: Path, session: ChatSession) -> bool:
        return save(session, path, models.find(session), library)

    def load_session(path: Path, session: ChatSession) -> Sequence[str]:
        return resume(session, path, models.find(session), library)

    services = Services(
        find_other=find_source,
        load_other=models.load_other,
        free_memory=free_memory,
        ask_exam=models.ask_exam,
        save=save_session,
        load=load_session,
    )
    run_terminal(session, facts, services)


def _describe_library(library: Library | None) -> str:
    if library is None:
        return ""
    counts = f"{name_count(library.documents, 'document')}, {name_count(library.passages, 'passage')}"
    return f"{library.corpus} ({counts})"


def describe_voice(voice: Voice) -> ModelFacts:
    """Return what the terminal tells of a model."""
    style = voice.speaker.style
    return ModelFacts(voice.facts, style.name, style.reason, voice.speaker.context_length)


def free_memory() -> None:
    """Give the memory of models that nobody has any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Models:
    """The models of a chat, and what each is asked besides replies.

    Args:
        settings: of the chat.
        voices: those that were loaded at its start.
    """

    def __init__(self, settings: ChatSettings, voices: Sequence[Voice]) -> None:
        self._settings = settings
        # Who answers is the session's to say; what belongs to a speaker goes with it.
        self._facts: WeakKeyDictionary[Answering, dict[str, Any]] = WeakKeyDictionary()
        self._exams: WeakKeyDictionary[Answering, Exam] = WeakKeyDictionary()
        for voice in voices:
            self._facts[voice.speaker] = voice.facts

    def find(self, session: ChatSession) -> list[Voice]:
        """Return the voices of a session's speakers."""
        return [Voice(cast(Speaker, who), self._facts[who]) for who in session.speakers]

    def load_other(self, source: str) -> tuple[Speaker, ModelFacts]:
        """Load a model, and return who answers with it and what is told of it.

        Raises:
            ModelError: it cannot be used.
            UnavailableError: the hub cannot be reached.
        """
        voice = load_voice(source, self._settings)
        self._facts[voice.speaker] = voice.facts
        return voice.speaker, describe_voice(voice)

    def ask_exam(self, text: str, session: ChatSession) -> list[ExamAnswer]:
        """Put a multiple-choice question to every model that answers.

        Raises:
            DataError: the text holds no question, or it cannot be scored.
            SettingsError: the profile has no likelihood of the options.
        """
        question = parse_exam(text)
        profile = session.settings.exam.profile
        return [self._find_exam(voice).ask(question, profile) for voice in self.find(session)]

    def _find_exam(self, voice: Voice) -> Exam:
        if voice.speaker not in self._exams:
            self._exams[voice.speaker] = build_exam(voice, self._settings)
        return self._exams[voice.speaker]
