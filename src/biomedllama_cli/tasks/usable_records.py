"""Records of a training set that nothing can be learnt from: without an answer, or without a question.

In a test set they are an error. Among the hundred thousands of a training set they are counted and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from biomedllama_cli.tasks.medmcqa import NO_ANSWER
from biomedllama_cli.tasks.options import LETTERS
from biomedllama_cli.tasks.pubmedqa import LABELS
from biomedllama_cli.tasks.records import Note, Record

Finding = tuple[str, str]
"""A kind of defect and a sentence."""

UNUSABLE_KINDS = ("no_answer", "answer_not_an_option", "blank_question")


def iter_usable(records: Iterable[Record], task: str, note: Note) -> Iterator[Record]:
    """Yield the records that have a question and whose answer names one of their options; tell of the others.

    Args:
        records: raw records of a task.
        task: its name; records of tasks that are not known here are all yielded.
        note: is told of each record that is left out, with a kind of `UNUSABLE_KINDS`.
    """
    check = _CHECKS.get(task)
    for record in records:
        finding = check(record) or _check_question(record) if check is not None else None
        if finding is None:
            yield record
        else:
            note(record, *finding)


def _check_medqa(record: Record) -> Finding | None:
    if "choices" in record.fields:
        return _check_choices(record)
    if "answer_idx" not in record.fields:
        return None
    letter: Any = record.fields["answer_idx"]
    if letter is None or (isinstance(letter, str) and not letter.strip()):
        return "no_answer", "field `answer_idx` is empty"
    options = record.fields.get("options")
    if not isinstance(options, dict | list) or not isinstance(letter, str):
        return None
    count = sum(text is not None for text in options.values()) if isinstance(options, dict) else len(options)
    return _check_label("answer_idx", letter.strip(), tuple(LETTERS[:count]))


def _check_choices(record: Record) -> Finding | None:
    choices, answer = record.fields.get("choices"), record.fields.get("answer", ())
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    if answer is None or answer == [] or (isinstance(answer, str) and not answer.strip()):
        return "no_answer", "field `answer` is empty"
    if not isinstance(choices, list) or not isinstance(answer, str):
        return None
    folded = tuple(" ".join(str(choice).casefold().split()) for choice in choices)
    return _check_label("answer", " ".join(answer.casefold().split()), folded)


def _check_medmcqa(record: Record) -> Finding | None:
    cop: Any = record.fields.get("cop", 0)
    if cop is None or cop == NO_ANSWER:
        return "no_answer", f"field `cop` is {cop!r}, as in the test split, which carries no answers"
    if isinstance(cop, int) and not isinstance(cop, bool) and not 0 <= cop <= 4:
        return "answer_not_an_option", f"field `cop` is {cop!r}; it must be 0-3, 1-4 or a letter a-d"
    return None


def _check_pubmedqa(record: Record) -> Finding | None:
    if "final_decision" not in record.fields:
        return None
    label: Any = record.fields["final_decision"]
    if label is None or (isinstance(label, str) and not label.strip()):
        return "no_answer", "field `final_decision` is empty"
    return _check_label("final_decision", label, LABELS) if isinstance(label, str) else None


def _check_question(record: Record) -> Finding | None:
    for field in ("question", "QUESTION"):
        text: Any = record.fields.get(field, field)
        if text is None or (isinstance(text, str) and not text.strip()):
            return "blank_question", f"field `{field}` is blank"
    return None


def _check_label(field: str, value: str, allowed: tuple[str, ...]) -> Finding | None:
    if value in allowed:
        return None
    return "answer_not_an_option", f"field `{field}` names none of the options"


_CHECKS: dict[str, Callable[[Record], Finding | None]] = {
    "medqa": _check_medqa,
    "medqa-5": _check_medqa,
    "medmcqa": _check_medmcqa,
    "pubmedqa": _check_pubmedqa,
    "pubmedqa-no-context": _check_pubmedqa,
}
