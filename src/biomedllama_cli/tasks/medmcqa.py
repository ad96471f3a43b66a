"""MedMCQA in the hub's schema and in the original release's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record, check_encodable

logger = logging.getLogger(__name__)

_OPTION_FIELDS = ("opa", "opb", "opc", "opd")
_LETTERS = ("a", "b", "c", "d")
NO_ANSWER = -1
"""`cop` of the test split, whose answers are kept secret."""


def iter_medmcqa(records: Iterable[Record]) -> Iterator[Question]:
    """Turn MedMCQA records into questions.

    `cop`, the right option, is 0 to 3 on the hub and 1 to 4 in the original release, under the same name.
    The whole file decides: a 0 means the first, a 4 the second; with neither it is taken as the hub's, and a
    warning says so. Letters a to d are taken as they are.

    Raises:
        DataError: a field is missing or does not fit, or `cop` is 0 here and 4 there.
    """
    rows = list(records)
    base = _find_base(rows)
    for record in rows:
        # The training split, a few-shot pool of 182,822 rows, is not screened: only the type is checked.
        options = tuple(_read_option(record, field) for field in _OPTION_FIELDS)
        cop = record.fields["cop"]
        answer_index = _LETTERS.index(cop.lower()) if isinstance(cop, str) else cop - base
        yield Question(
            str(record.fields.get("id") or record.key),
            record.text("question"),
            options,
            answer_index,
            groups=record.groups(subject="subject_name", topic="topic_name"),
        )


def _read_option(record: Record, field: str) -> str:
    value = record.field(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{record.where}: field `{field}` is {value!r}; it must be text")
    return check_encodable(value, f"{record.where}: field `{field}`")


def _find_base(records: list[Record]) -> int:
    """Return 0 or 1: the number that stands for the first option in `cop`."""
    seen: dict[int, Record] = {}
    for record in records:
        cop = record.field("cop")
        if isinstance(cop, str) and cop.lower() in _LETTERS:
            continue
        if isinstance(cop, bool) or not isinstance(cop, int) or not 0 <= cop <= 4:
            hint = "This split carries no answers." if cop == NO_ANSWER else ""
            raise DataError(
                f"{record.where}: field `cop` is {cop!r}; it must be 0-3, 1-4 or a letter a-d", hint
            )
        seen.setdefault(cop, record)
    if 0 in seen and 4 in seen:
        raise DataError(
            f"{seen[4].where}: field `cop` is 4 while {seen[0].where} has 0; a file counts from 0 or from 1, not both"
        )
    if seen and 0 not in seen and 4 not in seen:
        first = next(iter(seen.values()))
        logger.warning(
            "%s: field `cop` is 1, 2 or 3 throughout, which does not tell if it counts from 0 or 1; taken as on the "
            "hub, from 0. If this is a part of the original release, write the letters a-d into `cop`.",
            first.where,
        )
        return 0
    return 1 if 4 in seen else 0
