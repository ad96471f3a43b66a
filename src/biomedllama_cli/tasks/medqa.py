"""MedQA-USMLE with 4 or 5 options, in the schemas it is published in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.options import LETTERS, read_letter, read_lettered_options, read_listed_options
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Note, Record, warn_of_defect

ANSWER_DIFFERS = "answer_text_differs"


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


def iter_medqa(
    records: Iterable[Record], option_count: int, note: Note = warn_of_defect
) -> Iterator[Question]:
    """Turn MedQA records into questions.

    Read are the original release (`options` by letter, `answer_idx`, `answer`), its 4-option form on the
    hub (the same fields) and BigBio's (`choices`, and `answer` as a list). `meta_info` tells the step of the USMLE.

    Args:
        records: raw records.
        option_count: 4 for medqa, 5 for medqa-5.
        note: is told of a record whose `answer` is not the text of the option named as right; that option is taken.

    Raises:
        DataError: a field is missing or does not fit.
        OptionCountError: there are not `option_count` options.
    """
    for record in records:
        if "choices" in record.fields:
            options = read_listed_options(record, "choices")
            answer_index = _find_answer(record, options, note)
        else:
            options = read_lettered_options(record, "options")
            answer_index = _read_answer(record, options, note)
        if len(options) != option_count:
            other = {4: "medqa", 5: "medqa-5"}.get(len(options))
            raise OptionCountError(
                f"{record.where}: field `options` holds {len(options)} options where {option_count} are expected",
                f"Use --task {other} (and --data {other}=FILE) for this file." if other else "",
                other,
            )
        yield Question(
            str(record.fields.get("id") or record.key),
            record.text("question"),
            options,
            answer_index,
            groups=record.groups(step="meta_info"),
        )


def _read_answer(record: Record, options: tuple[str, ...], note: Note) -> int:
    answer_index = read_letter(record, "answer_idx", len(options))
    answer = record.fields.get("answer")
    if answer is not None and str(answer).strip() != options[answer_index].strip():
        note(record, ANSWER_DIFFERS, f"field `answer` is not the text of option {LETTERS[answer_index]}")
    return answer_index


def _find_answer(record: Record, options: tuple[str, ...], note: Note) -> int:
    """Return the index of the option that BigBio's `answer` repeats, if need be but for spaces and case."""
    answer = record.field("answer")
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    if answer in options:
        return options.index(answer)
    alike = [index for index, text in enumerate(options) if _fold(text) == _fold(str(answer))]
    if not alike:
        raise DataError(f"{record.where}: field `answer` is {answer!r}; it must be one of the choices")
    note(
        record,
        ANSWER_DIFFERS,
        f"field `answer` is the text of option {LETTERS[alike[0]]} but for spaces or case",
    )
    return alike[0]


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())
