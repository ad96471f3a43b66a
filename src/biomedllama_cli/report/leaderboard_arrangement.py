"""Results put in order: a row per model, a column per protocol, the newest number in each place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import PrivateAttr

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.evaluation.cells import Frozen, Results
from biomedllama_cli.report.leaderboard_columns import (
    BITS_PER_BYTE,
    BoardCell,
    BoardColumn,
    Placed,
    Protocol,
    build_columns,
    iter_placed,
    share_contexts,
)
from biomedllama_cli.report.leaderboard_models import ModelKey, name_models, rank_values
from biomedllama_cli.report.leaderboard_table import build_leaderboard_records, build_leaderboard_table
from biomedllama_cli.report.table_forms import quote_lines, render_tables
from biomedllama_cli.report.table_terminal import Screen
from biomedllama_cli.report.tables import TableForm
from biomedllama_cli.settings.suggest import suggest


class BoardRow(Frozen):
    """One model.

    Attributes:
        model: its name, with what tells it from others of the same name.
        cells: by the title of their column.
        mean_rank: over the columns in which another model stands as well; None where there is none.
        ranked: how many those are.
    """

    model: str
    source: str
    revision: str | None
    weights_sha256: str | None
    cells: dict[str, BoardCell]
    mean_rank: float | None
    ranked: int


class Unread(Frozen):
    """A results.json, or a cell of one, that is not on the board."""

    file: str
    reason: str


class Leaderboard(Frozen):
    """Models by tasks.

    Attributes:
        sorted_by: `mean rank`, or the title of a column.
        older: results that a newer one of the same model and protocol has replaced.
        plot: file that was drawn.
        skipped: files that are no results of this version, and cells without a finite value.
    """

    schema_version: str = "biomedllama.leaderboard/1"
    folder: str
    sorted_by: str
    columns: tuple[BoardColumn, ...]
    rows: tuple[BoardRow, ...]
    older: tuple[Unread, ...] = ()
    skipped: tuple[Unread, ...] = ()
    plot: str | None = None
    _form: TableForm = PrivateAttr(default="terminal")

    def in_form(self, form: TableForm) -> Leaderboard:
        """Return the same board, its table printed as `terminal`, `markdown`, `latex` or `csv`."""
        copy = self.model_copy()
        copy._form = form
        return copy

    def lines(self, screen: Screen | None = None) -> list[str]:
        """Return the board as lines of text, in CSV with a row per number; `screen` is stdout if none is given."""
        if self._form == "csv":  # nothing but the numbers, for programs
            return render_tables([build_leaderboard_records(self)], "csv")
        lines = render_tables([build_leaderboard_table(self)], self._form, screen or Screen.of_stdout())
        if self.plot is None:
            return lines
        return [*lines, "", *quote_lines([f"Plot: {self.plot}"], self._form)]


def arrange(
    found: Sequence[tuple[str, Results]],
    *,
    folder: str = "",
    skipped: Sequence[Unread] = (),
    sort: str | None = None,
) -> Leaderboard:
    """Put results, each with the name of its file, on a board.

    Raises:
        SettingsError: no column, or more than one, is called `sort`.
    """
    unread, older = list(skipped), []
    chosen: dict[ModelKey, dict[Protocol, Placed]] = {}
    newest_first = sorted(found, key=lambda pair: (_time(pair[1].created), pair[0]), reverse=True)
    every = [placed for file, results in newest_first for placed in iter_placed(results, file)]
    for placed in share_contexts(every):
        model, file = placed.results.model, placed.cell.file
        cells = chosen.setdefault((model.source, model.revision, model.weights_sha256), {})
        if not math.isfinite(placed.cell.value):
            what = f"{placed.protocol.task} under {placed.protocol.profile} has no finite value"
            unread.append(Unread(file=file, reason=what))
        elif placed.protocol in cells:
            newer = cells[placed.protocol].cell
            what = f"{placed.protocol.task} under {placed.protocol.profile}: {newer.file} is newer"
            older.append(Unread(file=file, reason=what))
        else:
            cells[placed.protocol] = placed
    columns = build_columns([placed for key in sorted(chosen, key=_order) for placed in chosen[key].values()])
    cells_of = {
        key: {
            columns[protocol].title: chosen[key][protocol].cell
            for protocol in columns
            if protocol in chosen[key]
        }
        for key in sorted(chosen, key=_order)
        if chosen[key]
    }
    rows = _rank(list(columns.values()), cells_of, name_models(list(cells_of)))
    column = None if sort is None else _find_column(sort, list(columns.values()))
    return Leaderboard(
        folder=folder,
        sorted_by="mean rank" if column is None else column.title,
        columns=tuple(columns.values()),
        rows=tuple(_sort(rows, column)),
        older=tuple(sorted(older, key=lambda one: (one.file, one.reason))),
        skipped=tuple(sorted(unread, key=lambda one: (one.file, one.reason))),
    )


def _time(created: str) -> tuple[float, str]:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return -math.inf, created
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), created


def _order(model: ModelKey) -> tuple[str, str, str]:
    return model[0], model[1] or "", model[2] or ""


def _rank(
    columns: Sequence[BoardColumn],
    cells_of: Mapping[ModelKey, Mapping[str, BoardCell]],
    names: Mapping[ModelKey, str],
) -> list[BoardRow]:
    ranks: dict[ModelKey, list[float]] = {model: [] for model in cells_of}
    for column in columns:
        sign = 1 if column.score == BITS_PER_BYTE else -1
        values = {
            model: sign * cells[column.title].value
            for model, cells in cells_of.items()
            if column.title in cells
        }
        if len(values) > 1:
            for model, rank in zip(values, rank_values(list(values.values())), strict=True):
                ranks[model].append(rank)
    return [
        BoardRow(
            model=names[model],
            source=model[0],
            revision=model[1],
            weights_sha256=model[2],
            cells=dict(cells),
            mean_rank=math.fsum(ranks[model]) / len(ranks[model]) if ranks[model] else None,
            ranked=len(ranks[model]),
        )
        for model, cells in cells_of.items()
    ]


def _find_column(name: str, columns: Sequence[BoardColumn]) -> BoardColumn:
    titled = [column for column in columns if column.title == name]
    found = titled or [column for column in columns if column.task == name]
    if len(found) == 1:
        return found[0]
    titles = [column.title for column in (found or columns)]
    rule = "is no column" if not found else f"means {len(found)} columns"
    hint = (not found and suggest(name, titles)) or f"Columns: {'; '.join(titles)}."
    raise SettingsError(f"sort is {name!r}, which {rule} of this leaderboard", hint)


def _sort(rows: Sequence[BoardRow], column: BoardColumn | None) -> list[BoardRow]:
    """Sort by mean rank, models in more columns first among equals; or by a column, empty cells last."""

    def place(row: BoardRow) -> tuple[bool, float, int, str]:
        if column is None:
            return row.mean_rank is None, row.mean_rank or 0.0, -row.ranked, row.model
        cell = row.cells.get(column.title)
        sign = 1 if column.score == BITS_PER_BYTE else -1
        return cell is None, 0.0 if cell is None else sign * cell.value, 0, row.model

    return sorted(rows, key=place)
