"""Defects of benchmark items: what is wrong with them as data, whatever a model answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from biomedllama_cli.tasks.options import LETTERS
from biomedllama_cli.tasks.question import Question

_SHORT_WORD = 2


@dataclass(frozen=True, order=True)
class ItemDefect:
    """An item that is not what it should be.

    Attributes:
        index: place of the item in its list, from 0.
        id: its id.
        kind: `blank_option`, `blank_context`, `answer_repeated` (the right answer stands under two letters),
            `duplicate_options`, `answer_text_differs` (the file names one option and repeats the text of another),
            `duplicate_id`, `duplicate_question`, or `conflicting_answer` (an earlier item calls another of the same
            options right).
        detail: where and what, without quoting the item.
    """

    index: int
    id: str
    kind: str
    detail: str


def find_defects(items: Sequence[Question]) -> tuple[ItemDefect, ...]:
    """Return the defects of some items, in their order; of two equal items the later one has the defect.

    Texts are compared without regard to spaces and case, but the case of words of one or two letters counts: `Aa`
    and `aa` are two genotypes. The context belongs to the question: one asked of two abstracts is two questions.
    """
    defects: list[ItemDefect] = []
    ids: dict[str, int] = {}
    asked: dict[tuple[str, str], _Asked] = {}
    for index, item in enumerate(items):
        found = list(_audit_item(item))
        if item.id in ids:
            found.append(("duplicate_id", f"item {ids[item.id] + 1} of the list has the same id"))
        ids.setdefault(item.id, index)
        earlier = asked.setdefault((fold_text(item.question), fold_text(item.context or "")), _Asked())
        found += earlier.compare(items, item)
        earlier.add(index, item)
        defects += [ItemDefect(index, item.id, kind, detail) for kind, detail in found]
    return tuple(defects)


def drop_defective(items: Sequence[Question], defects: Iterable[ItemDefect]) -> tuple[Question, ...]:
    """Return the items that have no defect, in their order."""
    defective = {defect.index for defect in defects}
    return tuple(item for index, item in enumerate(items) if index not in defective)


def fold_text(text: str) -> str:
    """Return a text in which spaces and, but for words of one or two letters, case make no difference.

    >>> fold_text("  Iron ") == fold_text("IRON"), fold_text("Aa") == fold_text("aa")
    (True, False)
    """
    return " ".join(word if len(word) <= _SHORT_WORD else word.casefold() for word in text.split())


def _audit_item(item: Question) -> Iterator[tuple[str, str]]:
    if item.context is not None and not item.context.strip():
        yield "blank_context", "the context is blank"
    folded = [fold_text(option) for option in item.options]
    blank = [LETTERS[index] for index, text in enumerate(folded) if not text]
    if blank:
        yield "blank_option", f"option {_join(blank)} is blank"
    for text in dict.fromkeys(text for text in folded if text):
        places = [index for index, other in enumerate(folded) if other == text]
        if len(places) > 1:
            letters = _join([LETTERS[index] for index in places])
            if item.answer_index in places:
                right = LETTERS[item.answer_index]
                yield (
                    "answer_repeated",
                    f"options {letters} are the same text, and only {right} counts as right",
                )
            else:
                yield "duplicate_options", f"options {letters} are the same text"


@dataclass
class _Asked:
    """The items of one question so far: what a later one repeats or contradicts, by the first that has it.

    Attributes:
        same: by right answer and all options.
        right: by right answer.
        wrong: by each option that is not the right answer.
    """

    same: dict[tuple[str, ...], int] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)

    def add(self, index: int, item: Question) -> None:
        """Note an item by its place in the list."""
        answer, options = _fold_options(item)
        self.same.setdefault((answer, *options), index)
        self.right.setdefault(answer, index)
        for option in options:
            if option != answer:
                self.wrong.setdefault(option, index)

    def compare(self, items: Sequence[Question], item: Question) -> list[tuple[str, str]]:
        """Return how an item repeats or contradicts the first earlier one that it does."""
        answer, options = _fold_options(item)
        same = self.same.get((answer, *options))
        others = [self.wrong.get(answer), *(self.right.get(option) for option in options if option != answer)]
        contradicted = min((index for index in others if index is not None), default=None)
        if same is not None and (contradicted is None or same < contradicted):
            return [("duplicate_question", f"the same as item {items[same].id} ({_place(same)})")]
        if contradicted is None:
            return []
        return [
            (
                "conflicting_answer",
                f"the question of item {items[contradicted].id} ({_place(contradicted)}), which calls another of its "
                "options right",
            )
        ]


def _fold_options(item: Question) -> tuple[str, list[str]]:
    return fold_text(item.answer), sorted(map(fold_text, item.options))


def _place(index: int) -> str:
    return f"number {index + 1} of the list"


def _join(letters: Sequence[str]) -> str:
    return re.sub(r", (\w)$", r" and \1", ", ".join(letters))
