"""The bundled questions, written for this project: real enough to try `evaluate`, too few to compare models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record

SAMPLE_FILE = Path(__file__).resolve().parent.parent / "data" / "questions" / "sample-questions.jsonl"


def iter_sample(records: Iterable[Record]) -> Iterator[Question]:
    """Turn records of `id`, `question`, `options` (a list) and `answer_index` into questions.

    Raises:
        DataError: a field is missing or does not fit.
    """
    for record in records:
        options, answer_index = record.field("options"), record.field("answer_index")
        if not isinstance(options, list) or not all(isinstance(text, str) and text for text in options):
            raise DataError(f"{record.where}: field `options` must be a list of texts")
        if not isinstance(answer_index, int) or not 0 <= answer_index < len(options):
            raise DataError(
                f"{record.where}: field `answer_index` is {answer_index!r}; it must be 0 to {len(options) - 1}"
            )
        identifier = record.fields.get("id") or record.key
        yield Question(str(identifier), record.text("question"), tuple(options), answer_index)
