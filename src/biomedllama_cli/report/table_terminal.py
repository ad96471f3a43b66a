"""Tables on a terminal."""

from __future__ import annotations

import io
import os
import shutil
import sys
import textwrap
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from biomedllama_cli.report.tables import Column, Table, format_cell, show_controls

_GAP = 2
"""Blanks between two columns (in character cells)."""
_NARROWEST_TEXT = 16
"""Text is broken into lines before a table is divided, but never to fewer character cells than this."""
_NARROWEST_NOTE = 30


@dataclass(frozen=True, slots=True)
class Screen:
    """What is written to.

    Attributes:
        width: in character cells; None where there is no limit (a file, a pipe).
        bold: whether headings may carry ANSI codes.
    """

    width: int | None = None
    bold: bool = False

    @classmethod
    def of_stdout(cls) -> Screen:
        """Look at stdout; COLUMNS gives a width to a file as well, NO_COLOR takes the codes from a terminal."""
        is_terminal = sys.stdout.isatty()
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        sized = is_terminal or os.environ.get("COLUMNS", "").isdecimal()
        width = shutil.get_terminal_size().columns if sized else None
        return cls(width=width or None, bold=is_terminal and not plain)


def render_terminal(table: Table, screen: Screen) -> list[str]:
    """Return aligned lines; numbers are never broken.

    Where the width does not hold a table its text is wrapped, and where that is not enough the table goes on below
    itself with its key columns repeated.
    """
    lines = [_embolden(part, screen) for part in _wrap(table.title, screen)] if table.title else []
    if table.rows:
        texts = [
            [
                show_controls(format_cell(column, cell))
                for column, cell in zip(table.columns, row, strict=True)
            ]
            for row in table.rows
        ]
        widths = [
            max(cell_len(column.title), *(cell_len(row[index]) for row in texts))
            for index, column in enumerate(table.columns)
        ]
        for number, chosen in enumerate(_divide(table, widths, screen.width)):
            lines += [""] * bool(number)
            lines += _align(
                [table.columns[i] for i in chosen], [[row[i] for i in chosen] for row in texts], screen
            )
    for note in table.notes:
        lines += _wrap(note, screen)
    return lines


def _wrap(text: str, screen: Screen) -> list[str]:
    shown = show_controls(text)
    if screen.width is None:
        return [shown]
    width = max(screen.width, _NARROWEST_NOTE)
    return textwrap.wrap(shown, width, subsequent_indent="  ", break_on_hyphens=False)


def _embolden(text: str, screen: Screen) -> str:
    return f"\x1b[1m{text}\x1b[0m" if screen.bold else text


def _least(column: Column, width: int) -> int:
    return min(width, _NARROWEST_TEXT) if column.kind == "text" else width


def _divide(table: Table, widths: list[int], limit: int | None) -> list[list[int]]:
    """Return which columns stand side by side: all of them, or parts that begin with the key columns."""
    everything = list(range(len(table.columns)))
    least = [_least(column, widths[index]) + _GAP for index, column in enumerate(table.columns)]
    if limit is None or sum(least) - _GAP <= limit:
        return [everything]
    keys = [index for index in everything if table.columns[index].key]
    parts: list[list[int]] = []
    for index in everything:
        if index in keys:
            continue
        if not parts or sum(least[each] for each in [*parts[-1], index]) - _GAP > limit:
            parts.append(list(keys))
        parts[-1].append(index)
    return parts or [everything]


def _align(columns: list[Column], rows: list[list[str]], screen: Screen) -> list[str]:
    natural = [
        max(cell_len(column.title), *(cell_len(row[index]) for row in rows))
        for index, column in enumerate(columns)
    ]
    least = [_least(column, width) for column, width in zip(columns, natural, strict=True)]
    # A terminal too narrow for one number gets long lines: a number in two pieces reads as two numbers.
    room = max(sum(least) + _GAP * len(columns), screen.width or sum(natural) + _GAP * len(columns))
    grid = RichTable(
        box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold" if screen.bold else ""
    )
    for column, width in zip(columns, least, strict=True):
        is_text = column.kind == "text"
        grid.add_column(
            Text(column.title),
            justify="left" if is_text else "right",
            no_wrap=not is_text,
            overflow="fold",
            min_width=width,
        )
    for row in rows:
        grid.add_row(*map(Text, row))
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=room,
        force_terminal=screen.bold,
        color_system="standard" if screen.bold else None,
        no_color=False,
        legacy_windows=False,
        highlight=False,
    )
    console.print(grid)
    return [line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n")]
