"""Training questions of MedQA, MedMCQA and PubMedQA, and questions of one's own, in the instructed models' wording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.finetuning import question_example
from biomedllama_cli.instructions.sources.findings import Findings, read_each
from biomedllama_cli.tasks.audit import drop_defective, find_defects
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask
from biomedllama_cli.tasks.medqa import OptionCountError
from biomedllama_cli.tasks.own_questions import iter_own_questions
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.recognition import recognize_task
from biomedllama_cli.tasks.records import MissingFieldError, Record
from biomedllama_cli.tasks.usable_records import iter_usable

_READ_WHOLE = "medmcqa"
"""Its parser has to see all records at once: its numbers of options mean what the whole file says."""


def iter_own_examples(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
    """Turn records of one's own questions (`tasks/own_questions.py`) into examples.

    Raises:
        DataError: records are wrong: the first twenty by file and line, and how many there are.
    """
    del findings  # every record gives an example or an error
    for question in iter_own_questions(records):
        yield question_example(question, source, "instructed")


def benchmark_reader(
    task_name: str, *, cleaned: bool = False
) -> Callable[[Iterable[Record], str, Findings], Iterator[Example]]:
    """Return the reader of a task's training questions, in any schema `evaluate` reads.

    Left out are records without a question or an answer (`tasks/usable_records.py`), and those whose right option is
    blank (`blank_answer`). Of PubMedQA the artificial part is read as well, which has no answer that is maybe.

    Args:
        task_name: as in `--task`.
        cleaned: leave out the questions that the audit finds a defect in (`defective`), which are kept and noted
            otherwise.
    """

    def read(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
        """Yield an example per question.

        Raises:
            DataError: records are wrong, or of another format, which is named.
        """
        questions = list(_iter_questions(records, task_name, findings))
        for question in _audit(questions, findings, cleaned=cleaned):
            if question.answer.strip():
                yield question_example(question, source, "instructed")
            else:
                findings.leave_out(f"question {question.id}", "blank_answer")

    return read


def _iter_questions(records: Iterable[Record], task_name: str, findings: Findings) -> Iterator[Question]:
    task = TASKS[task_name]
    assert isinstance(task, QuestionTask)

    def parse(some: Iterable[Record]) -> Iterator[Question]:
        with _naming_format(task_name):
            yield from task.parse(some, findings.note)

    usable = iter_usable(records, task_name, lambda record, kind, _: findings.leave_out(record.where, kind))
    if task_name == _READ_WHOLE:
        return parse(usable)
    return read_each(usable, lambda record: next(parse([record])), findings)


def _audit(questions: Sequence[Question], findings: Findings, *, cleaned: bool) -> Sequence[Question]:
    defects = find_defects(questions)
    if not cleaned:
        for defect in defects:
            findings.note_at(f"question {defect.id}", defect.kind, defect.detail)
        return questions
    for name in {defect.index: defect.id for defect in defects}.values():
        findings.leave_out(f"question {name}", "defective")
    return drop_defective(questions, defects)


@contextmanager
def _naming_format(task_name: str) -> Iterator[None]:
    """Tell of records of another format which one it is."""
    try:
        yield
    except OptionCountError as error:
        raise DataError(error.message, _say_format(error.other, task_name) if error.other else "") from error
    except MissingFieldError as error:
        other = recognize_task(error.fields, task_name, error.options)
        hint = f"{_say_format(other, task_name)} {error.hint}" if other else error.hint
        raise DataError(error.message, hint) from error


def _say_format(other: str, task_name: str) -> str:
    return (
        f"It looks like data of {other}: give --source a file of {task_name}, or name this one in a mixture file "
        f"(--mixture FILE) with `format: {other}`."
    )
