"""Training questions of MedQA, MedMCQA and PubMedQA in the instructed models' wording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.finetuning import question_example
from biomedllama_cli.instructions.sources.findings import Findings, read_each
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask
from biomedllama_cli.tasks.medqa import OptionCountError
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.recognition import recognize_task
from biomedllama_cli.tasks.records import MissingFieldError, Record


def benchmark_reader(
    task_name: str, *, whole: bool = False
) -> Callable[[Iterable[Record], str, Findings], Iterator[Example]]:
    """Return the reader of a task's questions, in any schema `evaluate` reads.

    Of PubMedQA that is the artificial part as well, which has the answers yes and no, and none that is maybe. A
    question whose right option is blank is left out (`blank_answer`).

    Args:
        task_name: as in `--task`.
        whole: the task's parser has to see all records at once (MedMCQA's numbers of options mean what the whole file
            says), so that the first error ends it.
    """
    task = TASKS[task_name]
    assert isinstance(task, QuestionTask)

    def read(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
        """Yield an example per question.

        Raises:
            DataError: records are wrong, or of another format, which is named.
        """

        def parse(some: Iterable[Record]) -> Iterator[Question]:
            with _naming_format(task_name):
                yield from task.parse(some, findings.note)

        questions = (
            parse(records) if whole else read_each(records, lambda record: next(parse([record])), findings)
        )
        for question in questions:
            if question.answer.strip():
                yield question_example(question, source, "instructed")
            else:
                findings.leave_out(f"question {question.id}", "blank_answer")

    return read


@contextmanager
def _naming_format(task_name: str) -> Iterator[None]:
    """Tell of records of another format which one it is."""
    try:
        yield
    except OptionCountError as error:
        raise DataError(error.message, f"Its format is {error.other}." if error.other else "") from error
    except MissingFieldError as error:
        other = recognize_task(error.fields, task_name, error.options)
        hint = f"It looks like data of the format {other}. {error.hint}" if other else error.hint
        raise DataError(error.message, hint) from error
