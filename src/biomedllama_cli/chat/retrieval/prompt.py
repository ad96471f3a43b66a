"""Passages as the model is given them, and as people read where they come from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from biomedllama_cli.chat.conversation import Passage

_INSTRUCTION = (
    "Answer the question from these passages and cite them by their numbers, such as [1]. "
    "Say so if they do not hold it."
)
_ABOUT_RETRACTED = "What is marked as retracted was withdrawn: do not rest an answer on it."
_WITHDRAWN = ("retracted", "retraction_notice")
_NAMED_FLAGS = {
    "retracted": "RETRACTED",
    "retraction_notice": "RETRACTION NOTICE",
    "expression_of_concern": "EXPRESSION OF CONCERN",
}
# Control characters, and those that reorder or hide text: none belongs into a line.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+")
_BRACKETED_NUMBERS = re.compile(r"\[(\d[\d\s,;–-]*)\]")


def write_prompt(question: str, passages: Sequence[Passage]) -> str:
    r"""Return what the model is given: numbered passages with their identifiers, an instruction, the question.

    Every passage is one line that begins with its number, so nothing in its text can begin a turn, a heading or
    another passage; numbers in square brackets, which would read like citations of ours, come in round ones. Control
    tokens spelled in it are the template's business, which keeps them as text.

    Args:
        question: as it was asked.
        passages: numbered from 1; without any the question comes back as it is.

    >>> print(write_prompt("Does cress hear?", [Passage("Cress grew [3].\nIt did.", "pmid:7.1", 7, title="On cress")]))
    Passages from the literature:
    <BLANKLINE>
    [1] PMID 7 · On cress — Cress grew (3). It did.
    <BLANKLINE>
    Answer the question from these passages and cite them by their numbers, such as [1]. Say so if they do not hold it.
    <BLANKLINE>
    Question: Does cress hear?
    """
    if not passages:
        return question
    shown = []
    for number, passage in enumerate(passages, 1):
        # A document without identifiers is named by a hash, which tells a model nothing.
        origin = _join(*_name_flags(passage), _name_identifiers(passage), _flatten(passage.title))
        shown.append(f"[{number}] " + " — ".join(part for part in (origin, _flatten(passage.text)) if part))
    withdrawn = any(flag in passage.flags for passage in passages for flag in _WITHDRAWN)
    instruction = f"{_INSTRUCTION} {_ABOUT_RETRACTED}" if withdrawn else _INSTRUCTION
    return "\n\n".join(["Passages from the literature:", *shown, instruction, f"Question: {question}"])


def cite(passage: Passage) -> str:
    """Return where a passage comes from, as one line for people.

    >>> cite(Passage("...", "pmid:7.1", 7, title="On cress", licence="CC BY", year=2011, flags=("retracted",)))
    'RETRACTED · PMID 7 · On cress · 2011 · CC BY'
    """
    return _join(
        *_name_flags(passage),
        _name_identifiers(passage) or _flatten(passage.document_id),
        _flatten(passage.title),
        "" if passage.year is None else str(passage.year),
        _flatten(passage.licence) or "licence not stated",
    )


def _name_identifiers(passage: Passage) -> str:
    return _join(
        f"PMID {passage.pmid}" if passage.pmid is not None else "",
        _flatten(passage.pmcid),
        f"doi:{_flatten(passage.doi)}" if passage.doi and passage.pmid is None and not passage.pmcid else "",
    )


def _name_flags(passage: Passage) -> list[str]:
    return [_NAMED_FLAGS[flag] for flag in passage.flags if flag in _NAMED_FLAGS]


def _join(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _flatten(text: str | None) -> str:
    r"""Return a text as one line.

    >>> _flatten("a\n\x1b[2J  b [12, 13]\u202e")
    'a [2J b (12, 13)'
    """
    return _BRACKETED_NUMBERS.sub(r"(\1)", " ".join(_UNSEEN.sub(" ", text or "").split()))
