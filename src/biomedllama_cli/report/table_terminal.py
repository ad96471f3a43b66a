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

    Where the width does not hold a table its headings and text are wrapped, and where that is not enough the table
    goes on below itself with its key columns repeated.
    """
    lines = [_embolden(part, screen) for part in _wrap(table.title, screen)] if table.title else []
    if table.rows:
        strips = [_Strip.of(table, index, screen) for index in range(len(table.columns))]
        for number, chosen in enumerate(_divide(strips, screen.width)):
            lines += [""] * bool(number)
            lines += _align(chosen, screen)
    for note in table.notes:
        lines += _wrap(note, screen)
    return lines


@dataclass(frozen=True, slots=True)
class _Strip:
    """A column in the words of the terminal; widths are in character cells.

    Attributes:
        natural: width without any wrapping of cells.
        least: width that must be there.
    """

    column: Column
    heading: str
    cells: tuple[str, ...]
    natural: int
    least: int

    @classmethod
    def of(cls, table: Table, index: int, screen: Screen) -> _Strip:
        column = table.columns[index]
        cells = tuple(show_controls(format_cell(column, row[index])) for row in table.rows)
        widest = max(map(cell_len, cells))
        heading = show_controls(column.title)
        if screen.width is not None:
            words = max(map(cell_len, heading.split()), default=1)
            heading = "\n".join(textwrap.wrap(heading, max(widest, words), break_on_hyphens=False))
        natural = max([widest, *map(cell_len, heading.split("\n"))])
        least = min(natural, _NARROWEST_TEXT) if column.kind == "text" else natural
        return cls(column, heading, cells, natural, least)


def _wrap(text: str, screen: Screen) -> list[str]:
    shown = show_controls(text)
    if screen.width is None:
        return [shown]
    width = max(screen.width, _NARROWEST_NOTE)
    return textwrap.wrap(shown, width, subsequent_indent="  ", break_on_hyphens=False)


def _embolden(text: str, screen: Screen) -> str:
    return f"\x1b[1m{text}\x1b[0m" if screen.bold else text


def _divide(strips: list[_Strip], limit: int | None) -> list[list[_Strip]]:
    """Return which columns stand side by side: all of them, or parts that begin with the key columns."""
    if limit is None or _least_width(strips) <= limit:
        return [strips]
    keys = [strip for strip in strips if strip.column.key]
    parts: list[list[_Strip]] = []
    for strip in strips:
        if strip.column.key:
            continue
        if not parts or _least_width([*parts[-1], strip]) > limit:
            parts.append(list(keys))
        parts[-1].append(strip)
    return parts or [strips]


def _least_width(strips: list[_Strip]) -> int:
    return sum(strip.least + _GAP for strip in strips) - _GAP


def _align(strips: list[_Strip], screen: Screen) -> list[str]:
    # A terminal too narrow for one number gets long lines: a number in two pieces reads as two numbers.
    room = max(_least_width(strips) + _GAP, screen.width or sum(strip.natural + _GAP for strip in strips))
    grid = RichTable(
        box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold" if screen.bold else ""
    )
    for strip in strips:
        is_text = strip.column.kind == "text"
        grid.add_column(
            Text(strip.heading),
            justify="left" if is_text else "right",
            vertical="top",
            no_wrap=not is_text,
            overflow="fold",
            min_width=strip.least,
        )
    for row in zip(*(strip.cells for strip in strips), strict=True):
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
