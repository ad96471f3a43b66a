"""Questions to be answered without a terminal: one schema, and errors by line.

A record (a line of a .jsonl file, or what else `iter_records` reads) has

- `question` or `prompt`: text; or `messages`: a conversation (a list of `role` and `content`) that ends with the
  user's turn; or Alpaca's `instruction` and `input`, the input in a paragraph of its own;
- `system`, where there is one: said before the conversation, instead of what the command line says;
- `id`, where there is one: text or a whole number; else the number of the record, from 0.

Other fields are not read, and do not appear in the answers: what belongs to them is found again by the id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.sources.messages import read_turns
from biomedllama_cli.tasks.own_questions import read_id
from biomedllama_cli.tasks.problems import tell_first
from biomedllama_cli.tasks.records import Record, check_encodable, file_sha256, iter_records

_SCHEMA = (
    "A record is an object with `question` or `prompt` (text), or `messages` (a list of `role` and `content`, the "
    "user's last); `id` and `system` may be there."
)


@dataclass(frozen=True, slots=True)
class FileQuestion:
    """A question of a file.

    Attributes:
        id: as in the file, or the number of the record.
        question: the user's last turn.
        turns: (role, text) of what stands before it: the system turn, where there is one, and earlier exchanges.
    """

    id: str
    question: str
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionsFile:
    """A file of questions as it was when it was read.

    Attributes:
        sha256: of its bytes.
        questions: all of them, in its order.
    """

    sha256: str
    questions: tuple[FileQuestion, ...]


def load_questions(path: Path, system: str = "") -> QuestionsFile:
    """Return all questions of a file and the hash of the bytes that they were read from.

    Raises:
        DataError: as `read_questions`, or the file was changed meanwhile.
    """
    before = file_sha256(path) if path.is_file() else ""
    questions = read_questions(path, system)
    if file_sha256(path) != before:
        raise DataError(f"{path} was changed while it was read", "Start again once it is written.")
    return QuestionsFile(before, questions)


def read_questions(path: Path, system: str = "") -> tuple[FileQuestion, ...]:
    """Return all questions of a file, in its order.

    Args:
        path: of the file.
        system: said to the model before conversations that bring no system message of their own.

    Raises:
        DataError: the file cannot be read or holds no question, or records of it do not fit the schema of this
            module: the first `PROBLEMS_TOLD` problems, each with file, line, field and rule, and the count of all.
    """
    questions: list[FileQuestion] = []
    places: dict[str, str] = {}
    problems: list[DataError] = []
    for record in _iter_all(iter_records(path)):
        try:
            if isinstance(record, DataError):
                raise record
            question = _read_question(record, system.strip())
            if question.id in places:
                raise DataError(
                    f"{record.where}: field `id` is {question.id!r}, as in {places[question.id]}; every question needs "
                    "one of its own"
                )
            places[question.id] = record.where
            questions.append(question)
        except DataError as error:
            problems.append(error)
    if len(problems) == 1:
        raise DataError(problems[0].message, problems[0].hint or _SCHEMA)
    if problems:
        told = tell_first(problems, len(problems))
        raise DataError("\n".join([f"{len(problems):,} records are wrong:", *told]), _SCHEMA)
    if not questions:
        raise DataError(f"{path}: the file holds no question", _SCHEMA)
    return tuple(questions)


def _iter_all(records: Iterable[Record]) -> Iterator[Record | DataError]:
    """Yield records and what is wrong with lines: the reader goes on with the next line, if it can."""
    source = iter(records)
    while True:
        try:
            yield next(source)
        except StopIteration:
            return
        except DataError as error:
            yield error


def _read_question(record: Record, system: str) -> FileQuestion:
    forms = [name for name in _FORMS if record.fields.get(name) is not None]
    if len(forms) != 1:
        named = " and ".join(f"`{name}`" for name in forms)
        found = f"has {named}" if forms else "has no `question`, `prompt`, `messages` or `instruction`"
        raise DataError(f"{record.where}: the record {found}; it must have one of them", _SCHEMA)
    turns = _FORMS[forms[0]](record)
    own: Any = record.fields.get("system")
    if own is not None:
        if turns[0][0] == "system":
            raise DataError(
                f"{record.where}: field `system` is there, and `messages` begins with a system message; give one"
            )
        if not isinstance(own, str):
            raise DataError(f"{record.where}: field `system` is {type(own).__name__}; it must be text")
        system = check_encodable(own, f"{record.where}: field `system`").strip()
    if system and turns[0][0] != "system":
        turns = [("system", system), *turns]
    return FileQuestion(read_id(record), turns[-1][1], tuple(turns[:-1]))


def _read_text(field: str) -> Callable[[Record], list[tuple[str, str]]]:
    return lambda record: [("user", record.text(field).strip())]


def _read_instruction(record: Record) -> list[tuple[str, str]]:
    parts = [record.text("instruction").strip()]
    if record.fields.get("input") not in (None, ""):
        parts.append(record.text("input").strip())
    return [("user", "\n\n".join(parts))]


def _read_messages(record: Record) -> list[tuple[str, str]]:
    turns = [(turn.role, turn.text) for turn in read_turns(record)]
    if turns[-1][0] != "user":
        raise DataError(
            f"{record.where}: messages: the last message is the {turns[-1][0]}'s; it must be the user's, to be answered"
        )
    return [(str(role), text) for role, text in turns]


_FORMS: dict[str, Callable[[Record], list[tuple[str, str]]]] = {
    "question": _read_text("question"),
    "prompt": _read_text("prompt"),
    "messages": _read_messages,
    "instruction": _read_instruction,
}
