"""Tables of results, independent of the form they are printed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from biomedllama_cli.evaluation.cells import Accuracy, Estimate
from biomedllama_cli.evaluation.comparison_cells import show_perplexity

TableForm = Literal["terminal", "markdown", "latex", "csv"]
Kind = Literal["text", "integer", "number", "difference", "interval", "perplexity", "counts", "part"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of how many."""

    part: int
    whole: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A value with its 95 % interval; `mark` (a dagger) points to a note."""

    value: float
    interval: tuple[float, float] | None = None
    mark: str = ""

    @classmethod
    def of(cls, result: Accuracy | Estimate | None) -> Measured | None:
        """Take value and interval of a result; None stays None."""
        return None if result is None else cls(result.value, result.interval)


Cell = str | int | float | Measured | Counts | None


@dataclass(frozen=True, slots=True)
class Column:
    """What stands below one heading.

    Attributes:
        title: the heading.
        kind: what its cells are: `text` (str), `integer` (int), `number` and `difference` (float, the latter with
            its sign; `Measured` for one with a mark), `interval` (`Measured`), `perplexity` (likewise),
            `counts` (`Counts`, as k/n), `part` (`Counts`, as `k of n`, or n alone where it is all).
            None is shown as `-` and is empty in CSV.
        decimals: of printed values; CSV has all digits.
        names: headings in CSV, one per value, where those made from kind and title will not do.
        key: whether it says what a row is about: repeated when a table is too wide for the terminal.
    """

    title: str
    kind: Kind = "text"
    decimals: int = 3
    names: tuple[str, ...] = ()
    key: bool = False

    @property
    def csv_names(self) -> tuple[str, ...]:
        """Headings of this column's values in CSV."""
        if self.names:
            return self.names
        if self.kind in ("interval", "perplexity"):
            return self.title, f"{self.title} low", f"{self.title} high"
        if self.kind == "counts":
            return "correct", "scored"
        if self.kind == "part":
            return self.title, f"{self.title} of"
        return (self.title,)


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a title above and notes below; every row has one cell per column.

    >>> table = Table("", (Column("task"), Column("n", "integer")), (("medqa", 1273),))
    >>> [format_cell(column, cell) for column, cell in zip(table.columns, table.rows[0])]
    ['medqa', '1,273']
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check that rows fit the columns."""
        assert all(len(row) == len(self.columns) for row in self.rows), "a row has other cells than columns"

    def without_empty_columns(self) -> Table:
        """Leave out the columns that hold nothing in any row."""
        kept = [
            index
            for index in range(len(self.columns))
            if any(row[index] is not None for row in self.rows) or not self.rows
        ]
        columns = tuple(self.columns[index] for index in kept)
        rows = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return Table(self.title, columns, rows, self.notes)


def format_cell(column: Column, cell: Cell) -> str:
    """Return a cell as people read it.

    >>> format_cell(Column("acc", "interval"), Measured(0.3541, (0.3277, 0.3802)))
    '0.354 [0.328, 0.380]'
    >>> format_cell(Column("k/n", "counts"), Counts(450, 1273))
    '450/1273'
    >>> format_cell(Column("n", "part"), Counts(100, 1273)), format_cell(Column("n", "part"), Counts(5, 5))
    ('100 of 1,273', '5')
    >>> format_cell(Column("difference", "difference"), 0.0121), format_cell(Column("x"), None)
    ('+0.012', '-')
    """
    if cell is None:
        return "-"
    if isinstance(cell, Measured):
        ends = cell.interval or ()
        if column.kind == "perplexity":
            text, *shown = map(show_perplexity, (cell.value, *ends))
        else:
            text = format_number(cell.value, column.decimals, signed=column.kind == "difference")
            shown = [format_number(end, column.decimals) for end in ends]
        return text + (f" [{', '.join(shown)}]" if shown else "") + cell.mark
    if isinstance(cell, Counts):
        if column.kind == "counts":
            return f"{cell.part}/{cell.whole}"
        return f"{cell.part:,} of {cell.whole:,}" if cell.part != cell.whole else f"{cell.part:,}"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return format_number(cell, column.decimals, signed=column.kind == "difference")
    return cell


def format_number(value: float, decimals: int, *, signed: bool = False) -> str:
    """Return a number with so many decimals; `inf` where it is infinite.

    >>> format_number(0.3541, 3), format_number(-0.00001, 3), format_number(0.01, 3, signed=True)
    ('0.354', '0.000', '+0.010')
    >>> format_number(29.0583, 4), format_number(float("inf"), 2)
    ('29.0583', 'inf')
    """
    # A rounded value has no negative zero to show.
    rounded = round(value, decimals) + 0.0
    return f"{rounded:+.{decimals}f}" if signed else f"{rounded:.{decimals}f}"


def cell_values(column: Column, cell: Cell) -> tuple[str | int | float | None, ...]:
    """Return a cell's values for CSV, one per heading in `Column.csv_names`.

    >>> cell_values(Column("acc", "interval"), Measured(0.5, (0.25, 0.75)))
    (0.5, 0.25, 0.75)
    >>> cell_values(Column("acc", "interval"), None)
    (None, None, None)
    """
    if cell is None:
        return (None,) * len(column.csv_names)
    if isinstance(cell, Counts):
        return cell.part, cell.whole
    if isinstance(cell, Measured):
        return (cell.value, *(cell.interval or (None, None)))[: len(column.csv_names)]
    return (cell,)


def show_controls(text: str) -> str:
    r"""Return one line that no terminal takes for a command: white space as blanks, other controls as escapes.

    >>> show_controls("a\nb\x1b[31m")
    'a b\\x1b[31m'
    """
    # Also what turns the direction of writing, or cannot be encoded (lone surrogates): isprintable knows them all.
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
