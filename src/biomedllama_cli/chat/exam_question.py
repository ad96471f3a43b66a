"""A question of an exam, and what is odd about it."""

from __future__ import annotations

from dataclasses import dataclass

from biomedllama_cli.tasks.audit import find_defects
from biomedllama_cli.tasks.question import Question

SYNTAX = (
    "Write `Question? | option | option`, or the question with its options below it (`A. ...`, one per line), or "
    "FILE.jsonl:7 for the seventh question of a file."
)
"""How a question is written, for hints."""


@dataclass(frozen=True, slots=True)
class ExamQuestion:
    """A question to be asked as in the exam; its right answer need not be known.

    Attributes:
        question: its text.
        options: 2 to 26.
        answer_index: of the right option, from 0; None where nobody said.
        context: text the question is about.
        id: as its file has it; `typed` where it comes from no file.
        origin: where it comes from, for people; empty where it was typed.
        remarks: what is odd about it, one sentence each.
    """

    question: str
    options: tuple[str, ...]
    answer_index: int | None = None
    context: str | None = None
    id: str = "typed"
    origin: str = ""
    remarks: tuple[str, ...] = ()

    def as_question(self) -> Question:
        """Return the record that is asked; its `answer_index` means something only where this one has it.

        No prompt of a scored question depends on its right answer.
        """
        return Question(self.id, self.question, self.options, self.answer_index or 0, self.context)


def find_remarks(question: ExamQuestion) -> tuple[str, ...]:
    """Return what an audit of its exam would say of a question, one sentence each.

    Without a known answer nothing is said of the right one.
    """
    defects = find_defects([question.as_question()])
    if question.answer_index is None:
        return tuple(sentence(defect.detail.partition(", and only")[0]) for defect in defects)
    return tuple(sentence(defect.detail) for defect in defects)


def sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop.

    >>> sentence("options A and B are the same text")
    'Options A and B are the same text.'
    """
    return text[:1].upper() + text[1:].rstrip(".") + "."
