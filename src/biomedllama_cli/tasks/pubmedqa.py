"""PubMedQA in the schema of `ori_pqal.json` and in the hub's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.pubmedqa_split import OFFICIAL_TEST_ITEMS, is_official_test
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record, check_encodable

LABELS = ("yes", "no", "maybe")


def iter_pubmedqa(records: Iterable[Record]) -> Iterator[Question]:
    """Turn PubMedQA records into questions whose context is the abstract's parts joined by newlines.

    Raises:
        DataError: a field is missing or does not fit.
    """
    for record in records:
        original = "QUESTION" in record.fields
        contexts: Any = record.field("CONTEXTS" if original else "context")
        if isinstance(contexts, dict):
            contexts = contexts.get("contexts")
        if (
            not isinstance(contexts, list)
            or not all(isinstance(part, str) for part in contexts)
            or not contexts
        ):
            name = "CONTEXTS" if original else "context.contexts"
            raise DataError(f"{record.where}: field `{name}` must be a list of texts")
        label = record.text("final_decision")
        if label not in LABELS:
            raise DataError(
                f"{record.where}: field `final_decision` is {label!r}; it must be yes, no or maybe"
            )
        identifier = record.fields.get("pubid", record.key)
        question = record.text("QUESTION" if original else "question")
        context = check_encodable("\n".join(contexts), f"{record.where}: the contexts")
        yield Question(
            str(identifier),
            question,
            LABELS,
            LABELS.index(label),
            context,
            _read_conclusion(record, original),
        )


def check_labelled(items: Sequence[Question], where: str) -> None:
    """Check that items to be scored are of the labelled part, whose answers people gave.

    The artificial part (`pqa_artificial`, `ori_pqaa.json`) has the same fields, more items than the labelled one, and
    no answer `maybe`.

    Raises:
        DataError: they are of the artificial part.
    """
    unknown = sum(is_official_test(item.id) for item in items)
    if unknown > OFFICIAL_TEST_ITEMS and not any(item.answer == "maybe" for item in items):
        raise DataError(
            f"{where}: none of the {len(items):,} items has the `final_decision` maybe, and {unknown:,} PMIDs are not "
            "among the 1,000 labelled ones, so this is pqa_artificial, whose answers nobody checked",
            "Give pqa_labeled (ori_pqal.json); pqa_artificial is for training.",
        )


def _read_conclusion(record: Record, original: bool) -> str | None:
    """Return the abstract's conclusion, which is no part of the prompt; some copies come without it."""
    name = "LONG_ANSWER" if original else "long_answer"
    return record.text(name) if record.fields.get(name) else None
