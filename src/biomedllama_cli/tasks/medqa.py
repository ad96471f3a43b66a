"""MedQA-USMLE with 4 or 5 options, in the schemas it is published in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record, check_encodable

_LETTERS = "ABCDE"


class OptionCountError(DataError):
    """A file holds questions with another number of options.

    Args:
        message: one sentence.
        hint: what to do about it, or an empty string.
        other: the task that these questions belong to, or None.
    """

    def __init__(self, message: str, hint: str = "", other: str | None = None) -> None:
        super().__init__(message, hint)
        self.other = other


def iter_medqa(records: Iterable[Record], option_count: int) -> Iterator[Question]:
    """Turn MedQA records into questions.

    Read are the original release (`options` by letter, `answer_idx`, `answer`), its 4-option form on the
    hub (the same fields) and BigBio's (`choices`, and `answer` as a list).

    Args:
        records: raw records.
        option_count: 4 for medqa, 5 for medqa-5.

    Raises:
        DataError: a field is missing or does not fit.
        OptionCountError: there are not `option_count` options.
    """
    for record in records:
        if "choices" in record.fields:
            options, answer_index = _read_bigbio(record)
        else:
            options, answer_index = _read_letters(record)
        if len(options) != option_count:
            other = {4: "medqa", 5: "medqa-5"}.get(len(options))
            raise OptionCountError(
                f"{record.where}: field `options` holds {len(options)} options where {option_count} are expected",
                f"Use --task {other} (and --data {other}=FILE) for this file." if other else "",
                other,
            )
        identifier = record.fields.get("id") or record.key
        yield Question(str(identifier), record.text("question"), options, answer_index)


def _read_letters(record: Record) -> tuple[tuple[str, ...], int]:
    by_letter: Any = record.field("options")
    if isinstance(by_letter, list):  # [{"key": "A", "value": "..."}], as some copies on the hub have it
        by_letter = {entry.get("key"): entry.get("value") for entry in by_letter if isinstance(entry, dict)}
    if not isinstance(by_letter, dict):
        raise DataError(f"{record.where}: field `options` must map letters to texts")
    # Parquet fills the letters a record lacks with null.
    letters = sorted(letter for letter, text in by_letter.items() if text is not None)
    if letters != list(_LETTERS[: len(letters)]):
        raise DataError(
            f"{record.where}: field `options` has the letters {letters}; they must be A, B, C and on"
        )
    nested = Record(f"{record.where}, field `options`", record.key, by_letter)
    options = tuple(nested.text(letter) for letter in letters)
    letter = record.text("answer_idx").strip()
    if letter not in letters:
        raise DataError(f"{record.where}: field `answer_idx` is {letter!r}; it must be one of {letters}")
    answer_index = letters.index(letter)
    answer = record.fields.get("answer")
    if answer is not None and str(answer).strip() != options[answer_index].strip():
        raise DataError(f"{record.where}: field `answer` is not the text of option {letter}")
    return options, answer_index


def _read_bigbio(record: Record) -> tuple[tuple[str, ...], int]:
    options, answer = record.field("choices"), record.field("answer")
    if not isinstance(options, list) or not all(isinstance(text, str) and text.strip() for text in options):
        raise DataError(f"{record.where}: field `choices` must be a list of texts")
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    if answer not in options:
        raise DataError(f"{record.where}: field `answer` is {answer!r}; it must be one of the choices")
    options = [check_encodable(text, f"{record.where}: field `choices`") for text in options]
    return tuple(options), options.index(answer)
