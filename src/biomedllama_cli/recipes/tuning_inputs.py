"""From examples to rows: encoded for a model, counted for the report, and shown where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from biomedllama_cli.instructions.benchmarks import LookedFor, gather_benchmarks
from biomedllama_cli.instructions.decontamination import TuningDecontamination
from biomedllama_cli.instructions.encoding import EncodedSet, Encoder, encode_examples
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.models.chat_template import choose_template
from biomedllama_cli.recipes.tuning_plan import Lessons, Pupil, TuningSections
from biomedllama_cli.recipes.tuning_report import TuningFacts
from biomedllama_cli.report.mask_view import decode_trained, show_masks
from biomedllama_cli.settings.tuning import DecontaminationSettings
from biomedllama_cli.tasks.catalogue import LoadedQuestions

logger = logging.getLogger(__name__)


class MaskReport(BaseModel):
    """Rows with what is trained of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    template: str
    """How they are written."""
    rows: tuple[dict[str, Any], ...]
    """`source`, `id`, `token_ids`, `trained` (a flag per token), `cut_tokens`, and `trained_text` with what
    ends an answer."""
    view: str
    """The rows for people, without colour; every line end in it is one of the text."""
    _on_terminal: str = PrivateAttr("")

    def lines(self) -> list[str]:
        """Return the rows for people: on a terminal as wide as it is and coloured, else as they are."""
        return (self._on_terminal or self.view).rstrip("\n").split("\n")


def encode_lessons(
    train: Sequence[Example],
    held_out: Sequence[Example],
    pupil: Pupil,
    settings: TuningSections,
    reports: Path,
) -> Lessons:
    """Encode examples for a model.

    Args:
        train: to learn from.
        held_out: to choose the best checkpoint by; may be empty.
        pupil: the model.
        settings: the sections that are read.
        reports: folder of files about the examples.

    Raises:
        DataError: too many examples do not fit, or no token carries loss.
        SettingsError: the model has no chat template, or one that cannot be trained.
    """
    rows = settings.rows
    template = choose_template(pupil.tokenizer, pupil.source, rows.template)
    encoder = Encoder(pupil.tokenizer, template, settings.batch.sequence_length, rows.train_on)
    encoded = encode_examples(train, encoder, max_refused=rows.max_refused)
    refused, looked_at = encoded.refused, None
    if held_out:
        looked_at = encode_examples(
            held_out, encoder, max_refused=1.0, what="held-out examples", may_be_empty=True
        )
        refused = refused + looked_at.refused
        if not len(looked_at):
            logger.warning("no held-out example is left: the last checkpoint is taken, not the best")
            looked_at = None
    facts = TuningFacts(
        examples=len(encoded),
        held_out=len(looked_at) if looked_at is not None else 0,
        tokens=int(encoded.token_ids.size),
        target_tokens=int(encoded.trained.sum()),
        refused=dict(sorted(refused.items())),
        cut=encoded.cut_rows,
        template=template.name,
    )
    return Lessons(encoded, looked_at, facts, template, reports)


def find_benchmarks(settings: DecontaminationSettings, tests: Sequence[LoadedQuestions] = ()) -> LookedFor:
    """Return what examples are searched for: nothing where that is not asked for, not even on the hub.

    Raises:
        SettingsError: a benchmark's name is unknown or comes twice.
        DataError: a file is missing or broken.
        UnavailableError: a benchmark named without a file cannot be had.
    """
    if settings.decontaminate == "off":
        return LookedFor()
    return gather_benchmarks(settings.benchmark, tests)


def describe_decontamination(report: TuningDecontamination) -> dict[str, Any]:
    """Return the facts of a report about benchmark items among the examples."""
    return {
        "contaminated": {
            name: counts.documents for name, counts in report.benchmarks.items() if counts.documents
        },
        "dropped_contaminated": report.dropped,
        "not_looked_for": report.missing + report.incomplete,
    }


def build_mask_report(lessons: Lessons, pupil: Pupil, numbers: Iterable[int]) -> MaskReport:
    """Return some rows with what is trained of them.

    Args:
        lessons: the examples.
        pupil: the model.
        numbers: of the rows of `lessons.train`, in the order in which they are shown.
    """
    from rich.console import Console, Group

    chosen = list(numbers)
    shown = show_masks(lessons.train, pupil.tokenizer, chosen)
    rows = tuple(_describe_row(lessons.train, pupil, number) for number in chosen)
    report = MaskReport(
        template=lessons.template.name, rows=rows, view="\n".join(text.plain for text in shown) + "\n"
    )
    terminal = Console()
    if terminal.is_terminal:
        coloured = StringIO()
        Console(
            file=coloured,
            force_terminal=True,
            width=terminal.width,
            no_color=terminal.no_color,
            color_system=terminal.color_system,  # type: ignore[arg-type]
        ).print(Group(*shown))
        report._on_terminal = coloured.getvalue()
    return report


def _describe_row(encoded: EncodedSet, pupil: Pupil, number: int) -> dict[str, Any]:
    row = encoded.row(number)
    return {
        "source": encoded.sources[number],
        "id": encoded.ids[number],
        "token_ids": row.token_ids,
        "trained": row.trained,
        "cut_tokens": row.cut_tokens,
        "trained_text": decode_trained(row, pupil.tokenizer),
    }
