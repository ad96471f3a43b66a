"""A leaderboard as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from biomedllama_cli.report.evaluation_notes import describe_generation
from biomedllama_cli.report.leaderboard_columns import BITS_PER_BYTE, BoardCell, BoardColumn
from biomedllama_cli.report.tables import Cell, Column, Counts, Measured, Table, format_number

if TYPE_CHECKING:
    from biomedllama_cli.report.leaderboard_arrangement import BoardRow, Leaderboard

_BOS_MARK = "\N{DAGGER}"
_NONE = "none"


def build_leaderboard_table(board: Leaderboard, *, full: bool) -> Table:
    """Return a row per model.

    Args:
        board: what to show.
        full: whether source, revision and hash of the models have columns, as CSV has them.
    """
    identity = (Column("source"), Column("revision"), Column("weights_sha256")) if full else ()
    columns = (
        Column("model", key=True),
        *identity,
        Column("mean rank", "number", decimals=2),
        Column("of columns", "integer"),
        *(_column(column) for column in board.columns),
    )
    rows = tuple(_row(row, board, full) for row in board.rows)
    return Table(f"Leaderboard, by {board.sorted_by}", columns, rows, tuple(_notes(board)))


def _column(column: BoardColumn) -> Column:
    if column.score == BITS_PER_BYTE:
        return Column(column.title, "interval", decimals=4)
    return Column(column.title, "interval", counted=True)


def _row(row: BoardRow, board: Leaderboard, full: bool) -> tuple[Cell, ...]:
    identity = (row.source, row.revision, row.weights_sha256) if full else ()
    cells = (
        _cell(row.cells.get(column.title), marks_bos=_mixes_bos(board, column)) for column in board.columns
    )
    return (row.model, *identity, row.mean_rank, row.ranked, *cells)


def _cell(cell: BoardCell | None, *, marks_bos: bool) -> Measured | None:
    if cell is None:
        return None
    mark = _BOS_MARK if marks_bos and cell.bos == _NONE else ""
    counts = None if cell.correct is None else Counts(cell.correct, cell.n)
    return Measured(cell.value, cell.interval, mark, counts)


def _notes(board: Leaderboard) -> Iterator[str]:
    for column in board.columns:
        yield f"{column.title}: {_describe(column)}"
    if any(_mixes_bos(board, column) for column in board.columns):
        yield f"{_BOS_MARK} without BOS, as the model's tokenizer has it; others of the column are as theirs have it"
    dtypes = [
        (row.model, "/".join(sorted({cell.dtype for cell in row.cells.values()}))) for row in board.rows
    ]
    if len({dtype for _, dtype in dtypes}) > 1:
        yield "dtype: " + ", ".join(f"{model} {dtype}" for model, dtype in dtypes)
    if len({row.ranked for row in board.rows}) > 1:
        yield "Mean ranks over different columns are not comparable: see how many columns each model stands in."
    for one in board.older:
        yield f"Older, not shown: {one.file}: {one.reason}"
    for one in board.skipped:
        yield f"Skipped: {one.file}: {one.reason}"


def _mixes_bos(board: Leaderboard, column: BoardColumn) -> bool:
    cells = [row.cells[column.title] for row in board.rows if column.title in row.cells]
    return len({cell.bos == _NONE for cell in cells}) > 1 and column.kind == "questions"


def _describe(column: BoardColumn) -> str:
    count = f"{column.n:,}" if column.n == column.n_all else f"{column.n:,} of {column.n_all:,}"
    length = None if column.context_length is None else f"{column.context_length:,} tokens"
    if column.kind == "text":
        return f"n {count}, windows of {length}, the first after {column.bos}; lower is better"
    bos = "as each tokenizer has it" if column.bos == "convention" else column.bos
    longest = "other context lengths, which cut no input" if length is None else f"at most {length}"
    baselines = "" if column.random is None else f", random {format_number(column.random, 3)}"
    if column.majority is not None:
        baselines += f", majority {format_number(column.majority, 3)}"
    generated = (
        "" if column.generation is None else f", generated with {describe_generation(column.generation)}"
    )
    return f"{column.score}, n {count}, BOS {bos}, {longest}{baselines}{generated}"
