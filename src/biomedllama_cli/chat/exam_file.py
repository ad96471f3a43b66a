"""Questions that are named by their file and number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from biomedllama_cli.chat.exam_question import SYNTAX, ExamQuestion, find_remarks, sentence
from biomedllama_cli.errors import DataError
from biomedllama_cli.settings.suggest import suggest
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask
from biomedllama_cli.tasks.own_questions import read_own_question
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.recognition import recognize_task
from biomedllama_cli.tasks.records import SUFFIXES, MissingFieldError, Record, iter_records
from biomedllama_cli.tasks.sample import SAMPLE_FILE
from biomedllama_cli.wording import name_count

_PLACE = re.compile(r"(?:(?P<task>[\w.-]+)=)?(?P<path>.+?)(?::(?P<number>\d{1,18}))?$")
_ANSWER_FIELDS = ("answer_index", "answer_idx", "answer")


def find_place(text: str) -> tuple[str | None, str, int] | None:
    """Return task, path and number of a question in a file; None where a text does not name a file."""
    found = _PLACE.match(text)
    assert found is not None  # the pattern matches every line that is not empty
    task, path, number = found["task"], found["path"], int(found["number"] or 1)
    named = TASKS.get(path)
    if task is None and isinstance(named, QuestionTask) and isinstance(named.test, Path):
        return path, str(named.test), number
    if task is None and not path.lower().endswith(tuple(name for name in SUFFIXES if name != ".txt")):
        return None
    return task, path, number


def read_place(task: str | None, name: str, number: int) -> ExamQuestion:
    """Return a question of a file.

    Args:
        task: whose schema the file has; None for that of one's own questions.
        name: path of the file.
        number: of the question, from 1.

    Raises:
        DataError: there is no such task, file or question, or the question cannot be read.
    """
    path = Path(name).expanduser()
    if number < 1:
        raise DataError(f"the question's number is {number}; the first question of a file is 1", SYNTAX)
    if task is not None and not isinstance(TASKS.get(task), QuestionTask):
        names = [key for key, value in TASKS.items() if isinstance(value, QuestionTask)]
        hint = f"{suggest(task, names)} Tasks: {', '.join(names)}.".strip()
        raise DataError(
            f"{task}={name} names the task {task!r}, which does not exist or has no options", hint
        )
    if not path.is_file():
        raise DataError(f"there is no file {path}", SYNTAX)
    return _take(_iter_own(path, number) if task is None else _iter_task(task, path), task, path, number)


def _take(found: Iterator[ExamQuestion | None], task: str | None, path: Path, number: int) -> ExamQuestion:
    count = 0
    try:
        for count, question in enumerate(found, start=1):
            if count == number and question is not None:
                file = path.name if path == SAMPLE_FILE else path
                origin = f"{file}, question {number}"
                return replace(question, origin=origin, remarks=(*question.remarks, *find_remarks(question)))
    except MissingFieldError as error:
        other = recognize_task(error.fields, task or "questions", error.options)
        if other is None:
            raise
        raise DataError(error.message, f"It looks like data of {other}: {other}={path}:{number}.") from error
    except DataError as error:
        # What `evaluate` is told of its flags is no help here.
        raise DataError(error.message, SYNTAX if "--task" in error.hint else error.hint) from error
    raise DataError(
        f"{path} holds {name_count(count, 'question')}, and question {number:,} was asked for",
        "The first question of a file is 1.",
    )


def _iter_own(path: Path, number: int) -> Iterator[ExamQuestion | None]:
    """Yield the question of a number; of the others, whatever is wrong with them, None."""
    for place, record in enumerate(iter_records(path), start=1):
        if place != number:
            yield None
            continue
        known = any(record.fields.get(field) is not None for field in _ANSWER_FIELDS)
        # Read by the same rules as an answered one; the index that stands in is dropped again.
        stands_in = not known and "options" in record.fields
        readable = replace(record, fields={**record.fields, "answer_index": 0}) if stands_in else record
        yield _take_over(read_own_question(readable), known=known)


def _iter_task(name: str, path: Path) -> Iterator[ExamQuestion]:
    task = TASKS[name]
    assert isinstance(task, QuestionTask)
    noted: list[str] = []

    def note(record: Record, kind: str, detail: str) -> None:
        noted.append(sentence(detail))

    for question in task.parse(iter_records(path), note):
        yield replace(_take_over(question, known=True), remarks=tuple(noted))
        noted.clear()


def _take_over(question: Question, *, known: bool) -> ExamQuestion:
    answer_index = question.answer_index if known else None
    return ExamQuestion(question.question, question.options, answer_index, question.context, question.id)
