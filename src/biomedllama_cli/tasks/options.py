"""Options as benchmarks write them: texts by letter, or a list of texts."""

from __future__ import annotations

from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.records import Record, check_encodable

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_lettered_options(record: Record, field: str) -> tuple[str, ...]:
    """Return the options of a field that maps letters to texts, in the order of the letters.

    A list of `{"key": "A", "value": "..."}`, as some copies have it, is read as such a mapping. Blank options are
    kept: the audit names them.

    Raises:
        DataError: the field is missing, is of another kind, or its letters are not A, B, C and on.
    """
    by_letter: Any = record.field(field)
    if isinstance(by_letter, list):
        entries = [entry for entry in by_letter if isinstance(entry, dict)]
        if not entries:
            raise DataError(
                f"{record.where}: field `{field}` is a list without letters; it must map letters to texts"
            )
        by_letter = {entry.get("key"): entry.get("value") for entry in entries}
    if not isinstance(by_letter, dict):
        raise DataError(f"{record.where}: field `{field}` must map letters to texts")
    # Parquet fills the letters a record lacks with null.
    letters = sorted(str(letter) for letter, text in by_letter.items() if text is not None)
    if not letters or letters != list(LETTERS[: len(letters)]):
        raise DataError(
            f"{record.where}: field `{field}` has the letters {letters}; they must be A, B, C and on"
        )
    return tuple(_check_option(record, f"{field}.{letter}", by_letter[letter]) for letter in letters)


def read_listed_options(record: Record, field: str) -> tuple[str, ...]:
    """Return the options of a field that is a list of texts; blank ones are kept.

    Raises:
        DataError: the field is missing, empty or of another kind.
    """
    options: Any = record.field(field)
    if not isinstance(options, list) or not options or not all(isinstance(text, str) for text in options):
        raise DataError(f"{record.where}: field `{field}` must be a list of texts")
    return tuple(check_encodable(text, f"{record.where}: field `{field}`") for text in options)


def read_letter(record: Record, field: str, count: int) -> int:
    """Return the index of the option that a field names by its letter.

    Args:
        record: the record.
        field: the field.
        count: options there are.

    Raises:
        DataError: the field is missing, or is not one of the first `count` letters.
    """
    letter = record.text(field).strip()
    if len(letter) != 1 or letter not in LETTERS[:count]:
        raise DataError(
            f"{record.where}: field `{field}` is {letter!r}; it must be a letter of A to {LETTERS[count - 1]}"
        )
    return LETTERS.index(letter)


def _check_option(record: Record, field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{record.where}: field `{field}` is {type(value).__name__}; it must be text")
    return check_encodable(value, f"{record.where}: field `{field}`")
