"""MedXpertQA's text part (Zuo et al. 2025, arXiv 2501.18362), in the schema of its release."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.options import read_letter, read_lettered_options
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record

# The published question ends in a copy of its options, which are scored (and shown) from `options`.
_CHOICES = re.compile(r"\s*\bAnswer Choices:\s*\(A\).*\Z", re.DOTALL | re.IGNORECASE)


def iter_medxpertqa(records: Iterable[Record]) -> Iterator[Question]:
    """Turn MedXpertQA records into questions with up to ten options.

    Read are `id`, `question`, `options` by letter, `label`, and the groups `medical_task`, `body_system` and
    `question_type`. What follows `Answer Choices:` in a question repeats the options and is left out.

    Raises:
        DataError: a field is missing or does not fit, or the record is about images.
    """
    for record in records:
        if record.fields.get("images"):
            raise DataError(
                f"{record.where}: field `images` names pictures, which a language model cannot see",
                "Give the file of the text part: Text/test.jsonl.",
            )
        options = read_lettered_options(record, "options")
        question = _CHOICES.sub("", record.text("question"))
        if not question:
            raise DataError(f"{record.where}: field `question` holds the answer choices alone")
        yield Question(
            str(record.fields.get("id") or record.key),
            question,
            options,
            read_letter(record, "label", len(options)),
            groups=record.groups(
                medical_task="medical_task", body_system="body_system", question_type="question_type"
            ),
        )
