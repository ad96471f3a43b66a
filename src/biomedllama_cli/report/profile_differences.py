"""How much of a difference is protocol: one model's tasks under several profiles side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from biomedllama_cli.evaluation.cells import QuestionCell, Results, TextCell
from biomedllama_cli.report.tables import Cell, Column, Measured, Table

_BASE = "paper"
_OTHER_ITEMS = "\N{DAGGER}"
_Cell = QuestionCell | TextCell


def build_profile_tables(results: Results) -> list[Table]:
    """Return a table of tasks by profiles with the difference to `paper`, for questions and for text.

    A kind of task that was asked under one profile alone has no table.
    """
    tables = [
        _build("Accuracy by profile", results.questions, _accuracy, 3),
        _build("Bits per byte by profile", results.texts, _bits_per_byte, 4),
    ]
    return [table for table in tables if table is not None]


def _accuracy(cell: _Cell) -> Measured:
    assert isinstance(cell, QuestionCell)
    headline = cell.metrics.scores[cell.metrics.headline]
    return Measured(headline.value, headline.interval)


def _bits_per_byte(cell: _Cell) -> Measured:
    assert isinstance(cell, TextCell)
    return Measured(cell.metrics.bits_per_byte.value, cell.metrics.bits_per_byte.interval)


def _build(
    title: str, cells: Sequence[_Cell], measure: Callable[[_Cell], Measured], decimals: int
) -> Table | None:
    profiles = list(dict.fromkeys(cell.profile for cell in cells))
    if len(profiles) < 2:
        return None
    # The published protocol is what others are held against, wherever it was named.
    base = next((profile for profile in profiles if profile.partition("/")[0] == _BASE), profiles[0])
    profiles = [base, *(profile for profile in profiles if profile != base)]
    columns = [Column("task", key=True), Column(base, "interval", decimals)]
    for profile in profiles[1:]:
        columns.append(Column(profile, "interval", decimals))
        columns.append(Column(f"{profile} \N{MINUS SIGN} {base}", "difference", decimals))
    by_place: dict[tuple[str, str], _Cell] = {(cell.task, cell.profile): cell for cell in cells}
    rows = [_row(task, profiles, by_place, measure) for task in dict.fromkeys(cell.task for cell in cells)]
    notes = _describe_cells(cells, profiles)
    if any(isinstance(cell, Measured) and cell.mark for row in rows for cell in row):
        notes.append(
            f"{_OTHER_ITEMS} other items, or another number of them, than under {base}: "
            "the difference is not of the wording alone"
        )
    return Table(title, tuple(columns), tuple(rows), tuple(notes))


def _row(
    task: str,
    profiles: Sequence[str],
    cells: dict[tuple[str, str], _Cell],
    measure: Callable[[_Cell], Measured],
) -> tuple[Cell, ...]:
    base = cells.get((task, profiles[0]))
    row: list[Cell] = [task, None if base is None else measure(base)]
    for profile in profiles[1:]:
        cell = cells.get((task, profile))
        row.append(None if cell is None else measure(cell))
        if cell is None or base is None:
            row.append(None)
        else:
            mark = "" if _items(cell) == _items(base) else _OTHER_ITEMS
            row.append(Measured(measure(cell).value - measure(base).value, None, mark))
    return tuple(row)


def _items(cell: _Cell) -> tuple[str, int]:
    if isinstance(cell, TextCell):
        return cell.metrics.text_sha256, cell.metrics.n
    return cell.facts.items_sha256, cell.metrics.n


def _describe_cells(cells: Sequence[_Cell], profiles: Sequence[str]) -> list[str]:
    """Say for each profile what else differs: score, shots and BOS, or what text begins after."""
    notes = []
    for profile in profiles:
        facts = []
        for cell in cells:
            if cell.profile != profile:
                continue
            if isinstance(cell, TextCell):
                facts.append(f"text after {cell.prefix}")
            else:
                bos = "no BOS" if cell.facts.bos == "none" else cell.facts.bos
                facts.append(f"{cell.metrics.headline}, {bos}, {cell.facts.shots} shots")
        notes.append(f"{profile}: {'; '.join(dict.fromkeys(facts))}")
    return notes
