"""Instructions in Alpaca's format, AlpacaDataCleaned's and visual-med-alpaca's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.example import Example, make_pair
from biomedllama_cli.instructions.sources.findings import Findings, LeftOutError, read_each
from biomedllama_cli.tasks.own_questions import read_id
from biomedllama_cli.tasks.records import Record, check_encodable

_NO_INPUT = "<noinput>"
"""What Alpaca's generated records say for an input that is not there."""

_IMAGE_FIELDS = ("image", "images", "image_path", "img")
_IMAGE_MARK = "<image>"


def iter_alpaca(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
    """Turn records of `instruction`, `input` (may be empty or absent) and `output` into examples.

    The user says the instruction and, a blank line below, the input; spaces around all three are no part of them. A
    record whose output is blank is left out (`empty_output`): original releases have some.

    Raises:
        DataError: records are wrong: the first twenty by file and line, and how many there are.
    """
    return read_each(records, lambda record: _read(record, source), findings)


def iter_visual_med_alpaca(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
    """Turn the records of `med_alpaca_data_clean.json` into examples: Alpaca's three fields.

    The 54,412 published ones are text alone; visual-med-alpaca's images stand in other files. A record that names an
    image, or keeps a place for one, cannot be answered from its text and is left out (`image`).

    Raises:
        DataError: records are wrong: the first twenty by file and line, and how many there are.
    """

    def read(record: Record) -> Example:
        texts = (record.fields.get("instruction"), record.fields.get("input"))
        if any(record.fields.get(name) for name in _IMAGE_FIELDS) or any(
            isinstance(text, str) and _IMAGE_MARK in text.lower() for text in texts
        ):
            raise LeftOutError("image")
        return _read(record, source)

    return read_each(records, read, findings)


def _read(record: Record, source: str) -> Example:
    instruction = record.text("instruction").strip()
    given = _read_maybe_blank(record, "input", record.fields.get("input"))
    output = _read_maybe_blank(record, "output", record.field("output"))
    if not output:
        raise LeftOutError("empty_output")
    asked = instruction if not given or given.lower() == _NO_INPUT else f"{instruction}\n\n{given}"
    return make_pair(read_id(record), source, asked, output, exact=False)


def _read_maybe_blank(record: Record, name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{record.where}: field `{name}` is {type(value).__name__}; it must be text")
    return check_encodable(value, f"{record.where}: field `{name}`").strip()
