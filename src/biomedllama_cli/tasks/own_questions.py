"""Multiple-choice questions of one's own: one schema for training, testing and mixtures, and errors by line.

A record (a line of a .jsonl file, or what else `iter_records` reads) has

- `question`: text;
- `options`: 2 to 26 texts, as a list, or by letter from A (`{"A": "...", "B": "..."}`);
- `answer_index`: place of the right option, from 0; or `answer_idx`: its letter;
- `context`, where there is one: text the question is about, such as an abstract;
- `id`, where there is one: text or a number; else the number of the record, from 0.

Other fields are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.catalogue import QuestionTask
from biomedllama_cli.tasks.options import LETTERS, read_letter, read_lettered_options, read_listed_options
from biomedllama_cli.tasks.prompts import ABSTRACT_QUESTION, KNOWLEDGE_QUESTION, LABEL_SETS
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import MissingFieldError, Record, check_encodable, iter_records

PROBLEMS_TOLD = 5
"""Problems of a file that are told one by one; the others are counted."""
_SCHEMA = (
    "A record is an object with `question`, `options` (a list of texts, or texts by letter) and `answer_index` (from "
    "0) or `answer_idx` (a letter); `context` and `id` may be there."
)


def iter_own_questions(records: Iterable[Record]) -> Iterator[Question]:
    """Turn records of one's own questions into questions; everything that is wrong with them is told at once.

    Questions that can be read are yielded before the error is raised, so take them all before using any.

    Args:
        records: as `iter_records` yields them.

    Raises:
        DataError: records do not fit the schema of this module: the first `PROBLEMS_TOLD` problems, each with file,
            line, field, value and rule, and the count of all.
    """
    problems: list[DataError] = []
    read = 0
    source = iter(records)
    while True:
        try:
            record = next(source, None)
        except DataError as error:  # not JSON, not UTF-8: what follows cannot be read
            problems.append(error)
            break
        if record is None:
            break
        read += 1
        try:
            yield _read_question(record)
        except DataError as error:
            problems.append(error)
    if problems:
        raise _join_problems(problems, read)


def read_own_questions(path: Path) -> tuple[Question, ...]:
    """Return all questions of a file, in its order.

    Raises:
        DataError: the file cannot be read, holds no question, or records of it do not fit (see `iter_own_questions`).
    """
    questions = tuple(iter_own_questions(iter_records(path)))
    if not questions:
        raise DataError(f"{path}: the file holds no question", _SCHEMA)
    return questions


def build_own_task(name: str, sample: Question, test_file: Path | None = None) -> QuestionTask:
    """Return the task of a file of one's own questions, for `load_questions` and everything that takes a task.

    Args:
        name: of the task, for reports; it must be none of the known tasks'.
        sample: one of its questions; it tells whether a context is asked about, and whether the options are labels.
        test_file: what is scored, or None where that is given later.
    """
    prompt = ABSTRACT_QUESTION if sample.options in LABEL_SETS else KNOWLEDGE_QUESTION
    known = ABSTRACT_QUESTION if sample.context is not None else KNOWLEDGE_QUESTION
    return QuestionTask(
        name,
        replace(prompt, template=known.template),
        lambda records, _: iter_own_questions(records),
        test_file,
        None,
        check=check_contexts,
    )


def check_contexts(items: Sequence[Question], where: str) -> None:
    """Check that all questions of a task have a context, or none: one prompt asks them all.

    Raises:
        DataError: some have one and some have none.
    """
    having = sum(item.context is not None for item in items)
    if 0 < having < len(items):
        first = next(item for item in items if (item.context is None) == (having * 2 > len(items)))
        raise DataError(
            f"{where}: {having:,} of {len(items):,} questions have a `context` (question {first.id} "
            f"{'has one' if first.context is not None else 'has none'}); either all of them have one, or none",
            "Make two files of them.",
        )


def _read_question(record: Record) -> Question:
    question = record.text("question")
    options = _read_options(record)
    return Question(
        _read_id(record), question, options, _read_answer(record, len(options)), _read_context(record)
    )


def _read_options(record: Record) -> tuple[str, ...]:
    if isinstance(record.fields.get("options"), dict):
        options = read_lettered_options(record, "options")
    else:
        options = read_listed_options(record, "options")
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


def _read_answer(record: Record, count: int) -> int:
    number: Any = record.fields.get("answer_index")
    letter = None if record.fields.get("answer_idx") is None else read_letter(record, "answer_idx", count)
    if number is None and letter is None:
        raise MissingFieldError(
            f"{record.where}: field `answer_index` is missing, and so is `answer_idx`; one of them must name the "
            "right option",
            _SCHEMA,
            frozenset(map(str, record.fields)),
        )
    if number is None:
        assert letter is not None
        return letter
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
        raise DataError(f"{record.where}: field `answer_index` is {number!r}; it must be 0 to {count - 1}")
    if letter is not None and letter != number:
        raise DataError(
            f"{record.where}: field `answer_index` is {number}, which is option {LETTERS[number]}, and `answer_idx` is "
            f"{LETTERS[letter]}; both must name the same option"
        )
    return number


def _read_context(record: Record) -> str | None:
    context: Any = record.fields.get("context")
    if context is None:
        return None
    if not isinstance(context, str):
        raise DataError(f"{record.where}: field `context` is {type(context).__name__}; it must be text")
    return check_encodable(context, f"{record.where}: field `context`")


def _read_id(record: Record) -> str:
    identifier: Any = record.fields.get("id")
    if identifier is None or identifier == "":
        return record.key
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise DataError(
            f"{record.where}: field `id` is {type(identifier).__name__}; it must be text or a number"
        )
    return check_encodable(str(identifier), f"{record.where}: field `id`")


def _join_problems(problems: Sequence[DataError], read: int) -> DataError:
    if len(problems) == 1:
        return DataError(problems[0].message, problems[0].hint or _SCHEMA)
    told = [f"  {problem.message}" for problem in problems[:PROBLEMS_TOLD]]
    rest = len(problems) - len(told)
    if rest:
        told.append(f"  and {rest:,} more")
    return DataError(f"{len(problems):,} problems in {read:,} records:\n" + "\n".join(told), _SCHEMA)
