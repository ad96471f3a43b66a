"""The published result tables as data: every printed value, what it counts, and how its cell is run again."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import computed_field

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.evaluation.cells import Frozen

CONTEXT_LENGTH = 2048
"""Longest input of the published evaluation (in tokens), where the model's own limit is not lower."""


class PublishedCell(Frozen):
    """One printed value.

    Attributes:
        task: as in `--task`.
        column: its heading in the printed table.
        value: the digits as printed, a decimal fraction or a word perplexity.
        plus_minus: what is printed after ±.
        n: items the value is over; None for perplexities, whose number of documents was not printed.
        profile: that runs it; None for chance, which is no run.
        metrics: the scores the value can be, where the README does not say which.
        shots: few-shot examples per question.
        context_length: longest input (in tokens).
        notes: what is odd about it.
    """

    task: str
    column: str
    value: str
    plus_minus: str | None = None
    n: int | None = None
    profile: Literal["paper", "finetuned", "instructed"] | None = None
    metrics: tuple[str, ...] = ()
    shots: int = 0
    context_length: int = CONTEXT_LENGTH
    notes: tuple[str, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of right answers out of `n` that round to the value; empty where it is no such share."""
        if self.n is None or self.profile is None or self.plus_minus is not None:
            return ()
        return counts_of(self.value, self.n)

    @property
    def printed(self) -> str:
        """The value as printed, with its ±."""
        return self.value if self.plus_minus is None else f"{self.value} ± {self.plus_minus}"


class PublishedRow(Frozen):
    """One row of the printed tables.

    Attributes:
        name: as in `--reproduce`.
        hub_id: weights on the Hugging Face hub.
        weights: `public` (a page or a published use of the id is known), `named` (the original code names it, but
            no page of it is known), `none`.
        precision: of the published scoring.
        cells: its printed values.
        notes: about its weights.
    """

    name: str
    hub_id: str | None
    weights: Literal["public", "named", "none"]
    precision: str
    cells: tuple[PublishedCell, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_model(self) -> bool:
        """Whether a model gives this row, not chance."""
        return any(cell.profile is not None for cell in self.cells)


class RowsAnswer(Frozen):
    """All rows, as `--reproduce list` prints them."""

    schema_version: str = "biomedllama.published/1"
    source: str
    rows: tuple[PublishedRow, ...]

    def lines(self) -> list[str]:
        """Return each row with its cells, its weights and how to run it."""
        lines = [
            f"Published rows; source: {self.source}",
            "Counts follow from the printed digits: k of n right answers.",
        ]
        for row in self.rows:
            lines += ["", row.name, f"  weights: {_describe_weights(row)}", f"  run: {_describe_run(row)}"]
            lines += [f"  note: {note}" for note in row.notes]
            table = [_cell_columns(cell) for cell in row.cells]
            lines += [f"  {line}" for line in align_columns(table)]
            lines += [f"  {cell.task}: {note}" for cell in row.cells for note in cell.notes]
        return lines


def list_rows() -> RowsAnswer:
    """Return all published rows in the order of the tables."""
    tables = _load_tables()
    return RowsAnswer(source=tables["source"], rows=tuple(_build_row(tables, row) for row in tables["rows"]))


def find_row(name: str) -> PublishedRow:
    """Return the row of this name; case, spaces, hyphens and brackets do not matter.

    Raises:
        SettingsError: there is none.

    >>> find_row("gpt-neo (2.7b), zero-shot").name
    'GPT-Neo-2.7B 0-shot'
    """
    rows = {_simplify(row.name): row for row in list_rows().rows}
    wanted = _simplify(name)
    if wanted in rows:
        return rows[wanted]
    near = difflib.get_close_matches(wanted, list(rows), n=3, cutoff=0.5)
    names = ", ".join(f'"{rows[key].name}"' for key in near)
    raise SettingsError(
        f"reproduce names the row {name!r}, which the published tables do not have",
        f"Nearest: {names}. --reproduce list shows all." if near else "--reproduce list shows all.",
    )


def counts_of(value: str, n: int) -> tuple[int, ...]:
    """Return the whole numbers k for which k/n rounds to the printed digits.

    A share that lies exactly between two printed values counts for both.

    >>> counts_of("0.3535", 1273), counts_of("0.3946", 1273), counts_of("0.5", 3)
    ((450,), (), ())
    >>> counts_of("0.35", 1273)[:2]
    (440, 441)
    """
    half_unit = half_of_last_digit(value)
    low = ((Decimal(value) - half_unit) * n).to_integral_value(ROUND_CEILING)
    high = ((Decimal(value) + half_unit) * n).to_integral_value(ROUND_FLOOR)
    return tuple(range(max(int(low), 0), min(int(high), n) + 1))


def half_of_last_digit(value: str) -> Decimal:
    """Return half a unit of the last printed digit: by how much a rounded value may be off.

    >>> half_of_last_digit("15.7774")
    Decimal('0.00005')
    """
    exponent = Decimal(value).as_tuple().exponent
    assert isinstance(exponent, int), value
    return Decimal(5).scaleb(exponent - 1)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of equal length as lines with aligned columns.

    >>> align_columns([["a", "long"], ["wide", "b"]])
    ['a     long', 'wide  b']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


@cache
def _load_tables() -> dict[str, Any]:
    text = resources.files("biomedllama_cli.evaluation").joinpath("published.yaml").read_text("utf-8")
    tables: dict[str, Any] = yaml.safe_load(text)
    return tables


def _build_row(tables: dict[str, Any], row: dict[str, Any]) -> PublishedRow:
    strategy = tables["strategies"][row["strategy"]]
    model = tables["models"][row["model"]]
    cells = []
    for task, value in row["values"].items():
        facts = tables["tasks"][task]
        notes = [facts.get("note"), strategy.get("notes", {}).get(task), row.get("notes", {}).get(task)]
        cells.append(
            PublishedCell(
                task=task,
                column=facts["column"],
                value=value,
                plus_minus=row.get("plus_minus", {}).get(task),
                n=facts.get("n"),
                profile=strategy.get("profile"),
                metrics=strategy.get("metrics", facts["metrics"]),
                shots=strategy.get("shots", {}).get(task, 0),
                context_length=model.get("context_length", CONTEXT_LENGTH),
                notes=tuple(note for note in notes if note),
            )
        )
    return PublishedRow(
        name=row["name"],
        hub_id=model.get("hub_id"),
        weights=model.get("weights", "none"),
        precision=tables["precision"],
        cells=tuple(cells),
        notes=tuple(note for note in (model.get("note"), row.get("note")) if note),
    )


def _simplify(name: str) -> str:
    """Reduce a row's name to what tells it from others.

    >>> _simplify("LLaMA-7B  fine-tune") == _simplify("llama 7b Fine-Tuned")
    True
    """
    text = re.sub(r"[^a-z0-9]", "", name.casefold()).replace("zeroshot", "0shot")
    return re.sub(r"(finetune|instruct)(d|ed)?$", r"\1d", text)


def _describe_weights(row: PublishedRow) -> str:
    if not row.is_model:
        return "no model: the expected accuracy of guessing"
    known = {
        "public": f"{row.hub_id} (public)",
        "named": f"{row.hub_id} (named by the original code; no public page of it is known)",
        "none": "never published",
    }
    return known[row.weights]


def _describe_run(row: PublishedRow) -> str:
    if not row.is_model:
        return "nothing to run"
    model = "" if row.hub_id else " --model WEIGHTS"
    return f'biomedllama evaluate --reproduce "{row.name}"{model}'


def _cell_columns(cell: PublishedCell) -> list[str]:
    count = " or ".join(f"{k}/{cell.n}" for k in cell.counts) or "no count"
    if cell.profile is None:
        return [cell.task, cell.printed, "-", "-", "-", "-"]
    return [
        cell.task,
        cell.printed,
        "perplexity" if cell.n is None else count,
        f"shots {cell.shots}",
        f"profile {cell.profile}, context {cell.context_length}",
        " or ".join(cell.metrics),
    ]
