"""What a scorer is asked: rows with every byte of the prompt written out, whoever scores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biomedllama_cli.tasks.prompts import PromptFormat
from biomedllama_cli.tasks.question import Document, Question


@dataclass(frozen=True)
class QuestionRow:
    """One question: its whole context, the options as scored (without the prefix) and the gold index."""

    id: str
    prompt: str
    options: tuple[str, ...]
    answer_index: int


@dataclass(frozen=True)
class QuestionJob:
    """All questions of one task, in scoring order; `option_prefix` stands before each scored option."""

    task: str
    option_prefix: str
    rows: tuple[QuestionRow, ...]


@dataclass(frozen=True)
class TextJob:
    """All documents of one task, in scoring order."""

    task: str
    rows: tuple[Document, ...]


def build_question_job(
    task: str, prompt: PromptFormat, drawn: Sequence[tuple[Question, tuple[Question, ...]]]
) -> QuestionJob:
    """Write out the prompts of questions and their few-shot examples."""
    rows = tuple(
        QuestionRow(item.id, prompt.ask(item, examples), prompt.options_of(item), item.answer_index)
        for item, examples in drawn
    )
    return QuestionJob(task, prompt.option_prefix, rows)
