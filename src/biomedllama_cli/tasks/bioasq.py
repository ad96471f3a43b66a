"""BioASQ's yes/no questions (task B), in the challenge's own JSON."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record, check_encodable

logger = logging.getLogger(__name__)

LABELS = ("yes", "no")


def iter_bioasq(records: Iterable[Record]) -> Iterator[Question]:
    """Turn BioASQ questions of type yesno into questions whose context is their snippets joined by newlines.

    Read is the file of the challenge (`questions` around all of them) or one question per record. Questions of the
    other types (factoid, list, summary) are counted and left out; the count is logged. A question without snippets
    has a blank context, which the audit names.

    Raises:
        DataError: a field is missing or does not fit.
    """
    skipped: Counter[str] = Counter()
    for record in _iter_questions(records):
        kind = record.text("type")
        if kind != "yesno":
            skipped[kind] += 1
            continue
        yield Question(
            str(record.fields.get("id") or record.key),
            record.text("body"),
            LABELS,
            _read_answer(record),
            "\n".join(_read_snippets(record)),
            "\n".join(_read_texts(record, "ideal_answer")) or None,
        )
    if skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        logger.info("bioasq-yesno: left out the questions of other types (%s)", counts)


def _iter_questions(records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        nested: Any = record.fields.get("questions")
        if nested is None:
            yield record
            continue
        if not isinstance(nested, list):
            raise DataError(
                f"{record.where}: field `questions` is {type(nested).__name__}; it must be a list"
            )
        for number, fields in enumerate(nested):
            where = f"{record.where}, questions[{number}]"
            if not isinstance(fields, dict):
                raise DataError(f"{where}: a question is {type(fields).__name__}; it must be an object")
            yield Record(where, str(number), fields)


def _read_answer(record: Record) -> int:
    answer: Any = record.field("exact_answer")
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    label = answer.strip().lower() if isinstance(answer, str) else answer
    if label not in LABELS:
        hint = "" if answer else "This is a file of the test phase, without answers."
        raise DataError(f"{record.where}: field `exact_answer` is {answer!r}; it must be yes or no", hint)
    return LABELS.index(label)


def _read_snippets(record: Record) -> list[str]:
    snippets: Any = record.fields.get("snippets") or []
    if not isinstance(snippets, list):
        raise DataError(f"{record.where}: field `snippets` must be a list of objects with `text`")
    texts = [snippet.get("text") if isinstance(snippet, dict) else snippet for snippet in snippets]
    return _check_texts(texts, f"{record.where}: field `snippets`")


def _read_texts(record: Record, field: str) -> list[str]:
    """Return a field that is a text, a list of texts, or absent."""
    value: Any = record.fields.get(field) or []
    return _check_texts([value] if isinstance(value, str) else value, f"{record.where}: field `{field}`")


def _check_texts(texts: Any, where: str) -> list[str]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} must hold texts")
    return [check_encodable(text, where) for text in texts]
