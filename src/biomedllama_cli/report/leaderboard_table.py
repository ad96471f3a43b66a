"""A leaderboard as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from biomedllama_cli.report.evaluation_notes import describe_generation
from biomedllama_cli.report.leaderboard_columns import BITS_PER_BYTE, BoardCell, BoardColumn
from biomedllama_cli.report.tables import Cell, Column, Measured, Table, format_number

if TYPE_CHECKING:
    from biomedllama_cli.report.leaderboard_arrangement import BoardRow, Leaderboard

_BOS_MARK = "\N{DAGGER}"
_NONE = "none"
_RECORD_COLUMNS = (
    *(Column(name) for name in ("model", "source", "revision", "weights_sha256")),
    *(Column("mean_rank", "number"), Column("ranked_columns", "integer")),
    *(Column("column"), Column("profile"), Column("task"), Column("shots", "integer"), Column("score")),
    *(Column(name, "number") for name in ("value", "low", "high")),
    *(Column(name, "integer") for name in ("correct", "n", "n_all")),
    *(Column("bos"), Column("context_length", "integer"), Column("items_sha256")),
    *(Column("random", "number"), Column("majority", "number")),
    *(Column("dtype"), Column("created"), Column("file")),
)


def build_leaderboard_records(board: Leaderboard) -> Table:
    """Return a row per number, with what its column stands for, for CSV."""
    rows: list[tuple[Cell, ...]] = []
    for row in board.rows:
        model = (row.model, row.source, row.revision, row.weights_sha256, row.mean_rank, row.ranked)
        for column in board.columns:
            if (cell := row.cells.get(column.title)) is None:
                continue
            protocol = (column.title, column.profile, column.task, column.shots, column.score)
            number = (cell.value, *(cell.interval or (None, None)), cell.correct, cell.n, column.n_all)
            facts = (column.context_length, column.items_sha256, column.random, column.majority)
            rows.append((*model, *protocol, *number, cell.bos, *facts, cell.dtype, cell.created, cell.file))
    return Table("", _RECORD_COLUMNS, tuple(rows))


def build_leaderboard_table(board: Leaderboard) -> Table:
    """Return a row per model."""
    columns = (
        Column("model", key=True),
        Column("mean rank", "number", decimals=2),
        Column("of columns", "integer"),
        *(_column(column) for column in board.columns),
    )
    rows = tuple(_row(row, board) for row in board.rows)
    return Table(f"Leaderboard, by {board.sorted_by}", columns, rows, tuple(_notes(board)))


def _column(column: BoardColumn) -> Column:
    if column.score == BITS_PER_BYTE:
        return Column(column.title, "interval", decimals=4)
    return Column(column.title, "interval")


def _row(row: BoardRow, board: Leaderboard) -> tuple[Cell, ...]:
    cells = (
        _cell(row.cells.get(column.title), marks_bos=_mixes_bos(board, column)) for column in board.columns
    )
    return (row.model, row.mean_rank, row.ranked, *cells)


def _cell(cell: BoardCell | None, *, marks_bos: bool) -> Measured | None:
    if cell is None:
        return None
    mark = _BOS_MARK if marks_bos and cell.bos == _NONE else ""
    return Measured(cell.value, cell.interval, mark)


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
