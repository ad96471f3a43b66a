"""MMLU's six medical subjects, in the hub's schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.hub import HubSplit
from biomedllama_cli.tasks.options import read_listed_options
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record

SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
"""The subjects that Med-PaLM reports as MMLU's medical part (Singhal et al. 2023, Nature 620, Table 1)."""

TEST_SPLIT = HubSplit("cais/mmlu", "test", SUBJECTS)
"""What is scored: 1,089 questions."""
DEV_SPLIT = HubSplit("cais/mmlu", "dev", SUBJECTS)
"""Where few-shot examples come from: five questions of each subject."""
TEST_SPLITS = TEST_SPLIT.list_parts()
"""The test split subject by subject."""

_LETTERS = "ABCD"


def iter_mmlu(records: Iterable[Record]) -> Iterator[Question]:
    """Turn MMLU records (`question`, `choices`, `answer`, `subject` where there is one) into questions.

    Records of other subjects are left out; a record that names no subject is taken as medical. `answer` is a
    number from 0 or a letter from A.

    Raises:
        DataError: a field is missing or does not fit.
    """
    for record in records:
        subject = record.fields.get("subject")
        if subject is not None and subject not in SUBJECTS:
            continue
        # Numbers, signs and a few blanks stand among the published choices: only the type is checked.
        options = read_listed_options(record, "choices")
        identifier = record.fields.get("id") or (f"{subject}-{record.key}" if subject else record.key)
        yield Question(
            str(identifier),
            record.text("question"),
            options,
            _read_answer(record, len(options)),
            groups=record.groups(subject="subject"),
        )


def _read_answer(record: Record, options: int) -> int:
    answer = record.field("answer")
    if isinstance(answer, str) and answer and answer in _LETTERS:
        answer = _LETTERS.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < options:
        raise DataError(
            f"{record.where}: field `answer` is {record.field('answer')!r}; it must be 0 to {options - 1} or a letter"
        )
    return answer
