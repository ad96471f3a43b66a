"""All results below a folder in one table: models by tasks, each column one protocol on one set of items."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.cells import Frozen, Results
from biomedllama_cli.evaluation.output import RESULTS_FILE, load_results
from biomedllama_cli.report.leaderboard_columns import (
    BITS_PER_BYTE,
    BoardCell,
    BoardColumn,
    Placed,
    Protocol,
    build_columns,
    iter_placed,
)
from biomedllama_cli.report.leaderboard_models import ModelKey, name_models, rank_values
from biomedllama_cli.report.leaderboard_table import build_leaderboard_table
from biomedllama_cli.report.table_forms import render_tables
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
        skipped: files that are no results of this version, and cells without a finite value.
    """

    schema_version: str = "biomedllama.leaderboard/1"
    folder: str
    sorted_by: str
    columns: tuple[BoardColumn, ...]
    rows: tuple[BoardRow, ...]
    older: tuple[Unread, ...] = ()
    skipped: tuple[Unread, ...] = ()

    def lines(self, format: TableForm = "terminal", screen: Screen | None = None) -> list[str]:
        """Return the board as lines of text; `screen` is stdout if none is given."""
        table = build_leaderboard_table(self, full=format == "csv")
        return render_tables([table], format, screen or Screen.of_stdout())


def build_leaderboard(folder: Path, *, sort: str | None = None) -> Leaderboard:
    """Tabulate every results.json below a folder.

    Args:
        folder: searched in all its depth; links to folders are not followed.
        sort: title or task of the column to sort by; None is by mean rank.

    Raises:
        DataError: there is no such folder, or no results.json in it.
        SettingsError: no column, or more than one, is called `sort`.
    """
    if not folder.is_dir():
        raise DataError(f"leaderboard {folder} is not a folder", "Give a folder that holds results.")
    found: list[tuple[str, Results]] = []
    skipped: list[Unread] = []
    for path in _iter_results(folder, skipped):
        name = str(path.relative_to(folder))
        if reason := _foreign(path):
            skipped.append(Unread(file=name, reason=reason))
            continue
        try:
            found.append((name, load_results(path.parent)))
        except DataError as error:
            skipped.append(Unread(file=name, reason=error.message.removeprefix(f"{path} is ")))
    if not found and not skipped:
        raise DataError(
            f"leaderboard {folder} holds no {RESULTS_FILE}, at any depth",
            "Give the folder above your --output-dir folders.",
        )
    return arrange(found, folder=str(folder), skipped=skipped, sort=sort)


def _iter_results(folder: Path, skipped: list[Unread]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        place = os.path.relpath(error.filename, folder)
        skipped.append(Unread(file=place, reason=f"the folder cannot be read ({error.strerror})"))

    for place, folders, files in os.walk(folder, onerror=note):
        folders.sort()
        if RESULTS_FILE in files:
            yield Path(place) / RESULTS_FILE


def _foreign(path: Path) -> str | None:
    """Say why a file is no result of this version, or None: reading goes on."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    version = content.get("schema_version") if isinstance(content, dict) else None
    expected = Results.model_fields["schema_version"].default
    if not isinstance(version, str) or not version.startswith(expected.partition("/")[0]):
        return "not a result of biomedllama evaluate"
    return (
        None
        if version == expected
        else f"schema {version!r}, and this version reads {expected!r}: evaluate again"
    )


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
    for file, results in newest_first:
        model = results.model
        key = (model.source, model.revision, model.weights_sha256)
        cells = chosen.setdefault(key, {})
        for placed in iter_placed(results, file):
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
