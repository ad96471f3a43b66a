"""The one record every question becomes, and the one every document of running text becomes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question with its options and the index of the right one.

    `context` is the abstract of a PubMedQA item without its conclusion, and `long_answer` that conclusion; both are
    None elsewhere. `groups` names what an item belongs to where its data says so, by kind: ("subject", "Anatomy"),
    ("step", "step1").
    """

    id: str
    question: str
    options: tuple[str, ...]
    answer_index: int
    context: str | None = None
    long_answer: str | None = None
    groups: tuple[tuple[str, str], ...] = ()

    @property
    def answer(self) -> str:
        """Text of the right option."""
        return self.options[self.answer_index]


@dataclass(frozen=True)
class Document:
    """A document of running text, scored token by token."""

    id: str
    text: str
