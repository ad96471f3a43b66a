"""One multiple-choice question, for scripts: what the model would answer in the exam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import PrivateAttr

from biomedllama_cli.chat.exam import Exam, check_profile
from biomedllama_cli.chat.exam_answer import ExamAnswer
from biomedllama_cli.chat.exam_question import ExamQuestion
from biomedllama_cli.chat.terminal.sanitise import sanitise_line
from biomedllama_cli.evaluation.cells import Frozen
from biomedllama_cli.recipes.chat_load import Voice
from biomedllama_cli.recipes.chat_model import ChatModel, load_chat_model
from biomedllama_cli.settings.chat import ChatSettings

WIDTH = 100
"""Of the printed table (in character cells)."""


class ExamReport(Frozen):
    """What one model would answer, or two.

    Attributes:
        models: facts of each, as a transcript has them.
        answers: of each, with every form and normalisation.
    """

    schema_version: str = "biomedllama.chat-exam/1"
    models: tuple[dict[str, Any], ...]
    answers: tuple[dict[str, Any], ...]
    _shown: tuple[ExamAnswer, ...] = PrivateAttr(default=())

    def lines(self) -> list[str]:
        """Return the table of each, under the model's name where there are two."""
        lines: list[str] = []
        for model, answer in zip(self.models, self._shown, strict=True):
            if len(self.models) > 1:
                lines += [*([""] if lines else []), f"{sanitise_line(str(model['source']))}:"]
            lines += answer.lines(WIDTH)
        return lines


def ask_exam(question: ExamQuestion, settings: ChatSettings, sources: Sequence[str]) -> ExamReport:
    """Put a multiple-choice question to models, as `evaluate` does: outside of any conversation and its template.

    Args:
        question: an answer of `chat.exam_text.parse_exam`.
        settings: of the chat.
        sources: of one model, or of two that are compared, as `recipes.chat_model.find_source` names them.

    Raises:
        DataError: the question cannot be scored.
        SettingsError: the profile has no likelihood of the options.
        ModelError: a model cannot be used.
        UnavailableError: a hub, a device or a package is not to be had.
    """
    check_profile(settings.exam.profile, question)  # before the minutes that a model may take
    models = [load_chat_model(source, settings.compute) for source in sources]
    answers = tuple(build_exam(model, settings).ask(question, settings.exam.profile) for model in models)
    report = ExamReport(
        models=tuple(model.facts for model in models), answers=tuple(answer.dump() for answer in answers)
    )
    report._shown = answers
    return report


def build_exam(loaded: ChatModel | Voice, settings: ChatSettings) -> Exam:
    """Return the examination of a model: not in the chat's own context, but in that of `evaluate`, whose numbers these
    are.
    """
    asked = loaded.speaker if isinstance(loaded, Voice) else loaded
    return Exam(asked.model, asked.tokenizer, settings.compute.context_length)
