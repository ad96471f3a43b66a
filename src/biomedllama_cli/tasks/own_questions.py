"""Multiple-choice questions of one's own: one schema for training, testing and mixtures, and errors by line.

A record (a line of a .jsonl file, or what else `iter_records` reads) has

- `question`: text;
- `options`: 2 to 26 texts, as a list, or by letter from A (`{"A": "...", "B": "..."}`);
- `answer_index`: place of the right option, from 0; or `answer_idx`: its letter; or `answer`: its text; where there are
  several of them, they agree;
- `context`, where there is one: text the question is about, such as an abstract;
- `id`, where there is one: text or a number; else the number of the record, from 0.

Other fields are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.options import LETTERS, read_letter, read_lettered_options, read_listed_options
from biomedllama_cli.tasks.problems import tell_first
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import MissingFieldError, Record, iter_records

_SCHEMA = (
    "A record is an object with `question`, `options` (a list of texts, or texts by letter) and `answer_index` (from "
    "0), `answer_idx` (a letter) or `answer` (the option's text); `context` and `id` may be there."
)


def iter_own_questions(records: Iterable[Record]) -> Iterator[Question]:
    """Turn records of one's own questions into questions; everything that is wrong with them is told at once.

    A line that is not JSON is one of its problems and hides none of the next lines. Questions that can be read are
    yielded before the error is raised, so take them all before using any.

    Args:
        records: as `iter_records` yields them.

    Raises:
        DataError: records do not fit the schema of this module: the first `PROBLEMS_TOLD` problems, each with file,
            line, field, value and rule, the count of all, and ids that several records have.
    """
    problems: list[DataError] = []
    places: dict[str, list[str]] = {}  # of the records that have an id
    read = 0
    source = iter(records)
    while True:
        try:
            record = next(source, None)
            if record is None:
                break
            places.setdefault(read_id(record), []).append(record.where)
            yield read_own_question(record)
        except DataError as error:  # the reader goes on with the next line, if it can
            problems.append(error)
        read += 1
    if problems:
        raise _join_problems(problems, read, _tell_repeated_ids(places))


def read_own_questions(path: Path) -> tuple[Question, ...]:
    """Return all questions of a file, in its order.

    Raises:
        DataError: the file cannot be read, holds no question, or records of it do not fit (see `iter_own_questions`).
    """
    questions = tuple(iter_own_questions(iter_records(path)))
    if not questions:
        raise DataError(f"{path}: the file holds no question", _SCHEMA)
    return questions


def read_own_question(record: Record) -> Question:
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
    identifier: Any = record.fields.get("id")
    if identifier is None or identifier == "":
        return record.key
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise DataError(f"{record.where}: field `id` is {identifier!r}; it must be text or a whole number")
    return record.text("id") if isinstance(identifier, str) else str(identifier)


def read_options(record: Record) -> tuple[str, ...]:
    """Return the `options`: 2 to 26, none of them blank.

    Raises:
        DataError: there are others.
    """
    listed = record.field("options")
    by_letter = not isinstance(listed, list) or any(isinstance(entry, dict) for entry in listed)
    options = (read_lettered_options if by_letter else read_listed_options)(record, "options")
    if not 2 <= len(options) <= len(LETTERS):
        raise DataError(
            f"{record.where}: field `options` holds {len(options)} option{'' if len(options) == 1 else 's'}; "
            f"it must hold 2 to {len(LETTERS)}"
        )
    for letter, option in zip(LETTERS, options, strict=False):
        if not option.strip():
            raise DataError(
                f"{record.where}: field `options`: option {letter} is blank; it must be text with something in it"
            )
    return options


def _read_answer(record: Record, options: tuple[str, ...]) -> int:
    found = {
        field: read(record, options)
        for field, read in _ANSWER_READERS.items()
        if record.fields.get(field) is not None
    }
    if not found:
        raise MissingFieldError(
            f"{record.where}: field `answer_index` is missing, and so are `answer_idx` and `answer`; one of them must "
            "name the right option",
            _SCHEMA,
            frozenset(map(str, record.fields)),
        )
    if len(set(found.values())) > 1:
        named = ", ".join(f"`{field}` names option {LETTERS[index]}" for field, index in found.items())
        raise DataError(f"{record.where}: {named}; they must name the same")
    return next(iter(found.values()))


def _read_index(record: Record, options: tuple[str, ...]) -> int:
    index: Any = record.fields["answer_index"]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
        rule = f"0 to {len(options) - 1}"
        if isinstance(index, str):
            rule = f"a number, {rule}, and not text"
        raise DataError(f"{record.where}: field `answer_index` is {index!r}; it must be {rule}")
    return index


def _read_letter(record: Record, options: tuple[str, ...]) -> int:
    return read_letter(record, "answer_idx", len(options))


def _read_text(record: Record, options: tuple[str, ...]) -> int:
    answer = record.text("answer").strip()
    equal = [index for index, option in enumerate(options) if option.strip() == answer]
    if len(equal) == 1:
        return equal[0]
    # Two options of the same text are a defect that the audit names, and no matter where another field tells which.
    named = record.fields.get("answer_index"), record.fields.get("answer_idx")
    if equal and named != (None, None):
        return next((index for index in equal if index in named or LETTERS[index] in named), equal[0])
    raise DataError(
        f"{record.where}: field `answer` is {answer[:60]!r}, the text of {len(equal) or 'none'} of the options; it "
        "must be the text of one"
    )


_ANSWER_READERS = {"answer_index": _read_index, "answer_idx": _read_letter, "answer": _read_text}


def _join_problems(problems: Sequence[DataError], read: int, besides: Sequence[str]) -> DataError:
    if len(problems) == 1:
        first = f"{problems[0].message}." if besides else problems[0].message
        return DataError("\n".join([first, *besides]), problems[0].hint or _SCHEMA)
    told = tell_first(problems, len(problems))
    records = "1 record" if read == 1 else f"{read:,} records"
    return DataError("\n".join([f"{len(problems):,} problems in {records}:", *told, *besides]), _SCHEMA)


def _tell_repeated_ids(places: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line about ids of several records: no error by themselves, but who mends a file wants to know."""
    repeated = [(name, where) for name, where in places.items() if len(where) > 1]
    if not repeated:
        return []
    name, where = repeated[0]
    line = f"Besides, `id` {name!r} stands in {len(where):,} records: {where[0]}, again {where[1]}"
    if len(repeated) > 1:
        others = len(repeated) - 1
        line += f"; {others:,} other id{' is' if others == 1 else 's are'} repeated as well"
    return [line]
