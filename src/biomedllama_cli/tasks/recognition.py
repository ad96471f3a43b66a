"""Which task a record looks like, for who gave a file to another one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.records import MissingFieldError

# In order: a record may have the fields of several.
_FIELDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("pubmedqa", frozenset({"QUESTION", "CONTEXTS"})),
    ("pubmedqa", frozenset({"pubid", "context"})),
    ("medmcqa", frozenset({"opa", "opd"})),
    ("medqa", frozenset({"options", "answer_idx"})),
    ("medqa-5", frozenset({"choices", "document_id"})),
    ("mmlu-medical", frozenset({"choices", "answer"})),
    ("medxpertqa", frozenset({"options", "label"})),
    ("sample-questions", frozenset({"options", "answer_index"})),
    ("bioasq-yesno", frozenset({"questions"})),
    ("bioasq-yesno", frozenset({"body", "type"})),
    ("text", frozenset({"text"})),
)
_FIVE = 5  # options of MedQA's questions as they were first published
_RELATED = {"medqa-5": "medqa", "pubmedqa-no-context": "pubmedqa"}


def recognize_task(fields: Collection[str], task: str, options: int | None = None) -> str | None:
    """Return the task whose fields a record has, or None where that is `task` itself or none is known.

    >>> recognize_task(["question", "options", "answer_idx"], "medmcqa")
    'medqa'
    >>> recognize_task(["question", "options", "answer_idx"], "medmcqa", options=5)
    'medqa-5'
    """
    named = set(fields)
    for name, needed in _FIELDS:
        if needed <= named:
            if _RELATED.get(name, name) == _RELATED.get(task, task):
                return None
            return "medqa-5" if name == "medqa" and options == _FIVE else name
    return None


@contextmanager
def naming_other_task(task: str) -> Iterator[None]:
    """Tell of a record that lacks a field which task's record it looks like.

    Args:
        task: the task it was read for.

    Raises:
        DataError: the field is missing, and another task is named in the hint.
    """
    try:
        yield
    except MissingFieldError as error:
        other = recognize_task(error.fields, task, error.options)
        if other is None:
            raise
        raise DataError(
            error.message, f"It looks like data of {other}: --task {other} --data {other}=FILE. {error.hint}"
        ) from error
