"""Multiple-choice questions of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.finetuning import question_example
from biomedllama_cli.instructions.sources.findings import Findings, read_each
from biomedllama_cli.tasks.options import LETTERS, read_letter, read_lettered_options, read_listed_options
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record

_ANSWER_FIELDS = ("answer_index", "answer_idx", "answer")


def iter_questions(records: Iterable[Record], findings: Findings) -> Iterator[Question]:
    """Turn records into questions.

    A record has a `question`; `options`, a list of texts or texts by letter; the right one as `answer_index` (from 0),
    `answer_idx` (a letter) or `answer` (the option's text), and where it has several of them they agree; `context`
    where the question is about a text; and an `id` if it likes. Other fields are not looked at.

    Raises:
        DataError: records are wrong: the first five by file and line, and how many there are.
    """
    return read_each(records, read_question, findings)


def iter_examples(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
    """Turn such records into examples in the instructed models' wording.

    Raises:
        DataError: records are wrong.
    """
    for question in iter_questions(records, findings):
        yield question_example(question, source, "instructed")


def read_question(record: Record) -> Question:
    """Return the question of one record.

    Raises:
        DataError: a field is missing, does not fit or contradicts another.
    """
    question, options = record.text("question"), read_options(record)
    answer_index = _read_answer(record, options)
    context = record.text("context") if record.fields.get("context") not in (None, "") else None
    return Question(read_id(record), question, options, answer_index, context)


def read_id(record: Record) -> str:
    """Return the `id` of a record, or its key where it has none.

    Raises:
        DataError: it is neither text nor a whole number.
    """
    identifier = record.fields.get("id")
    if identifier is None or identifier == "":
        return record.key
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise DataError(f"{record.where}: field `id` is {identifier!r}; it must be text or a whole number")
    return record.text("id") if isinstance(identifier, str) else str(identifier)


def read_options(record: Record) -> tuple[str, ...]:
    """Return the `options`: at least two, none blank.

    Raises:
        DataError: there are others.
    """
    listed = record.field("options")
    by_letter = not isinstance(listed, list) or any(isinstance(entry, dict) for entry in listed)
    options = (read_lettered_options if by_letter else read_listed_options)(record, "options")
    if not 2 <= len(options) <= len(LETTERS):
        raise DataError(
            f"{record.where}: field `options` has {len(options)}; there must be 2 to {len(LETTERS)}"
        )
    for letter, option in zip(LETTERS, options, strict=False):
        if not option.strip():
            raise DataError(f"{record.where}: option {letter} is blank; it must be text with something in it")
    return options


def _read_answer(record: Record, options: tuple[str, ...]) -> int:
    readers = {"answer_index": _read_index, "answer_idx": _read_letter, "answer": _read_text}
    found = {
        name: readers[name](record, options) for name in _ANSWER_FIELDS if record.fields.get(name) is not None
    }
    if not found:
        raise DataError(
            f"{record.where}: the right option is not named",
            "Give answer_index (from 0), answer_idx (a letter) or answer (the option's text).",
        )
    if len(set(found.values())) > 1:
        named = ", ".join(f"`{name}` option {LETTERS[index]}" for name, index in found.items())
        raise DataError(f"{record.where}: the right option is named differently: {named}; they must agree")
    return next(iter(found.values()))


def _read_index(record: Record, options: tuple[str, ...]) -> int:
    index: Any = record.fields["answer_index"]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
        raise DataError(
            f"{record.where}: field `answer_index` is {index!r}; it must be a whole number of 0 to {len(options) - 1}"
        )
    return index


def _read_letter(record: Record, options: tuple[str, ...]) -> int:
    return read_letter(record, "answer_idx", len(options))


def _read_text(record: Record, options: tuple[str, ...]) -> int:
    answer = record.text("answer").strip()
    equal = [index for index, option in enumerate(options) if option.strip() == answer]
    if len(equal) != 1:
        count = "none" if not equal else f"{len(equal)}"
        raise DataError(
            f"{record.where}: field `answer` is the text of {count} of the options; it must be that of one"
        )
    return equal[0]
