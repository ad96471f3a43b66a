"""Tables in forms that other programs read: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence

from biomedllama_cli.report.table_terminal import Screen, render_terminal
from biomedllama_cli.report.tables import (
    Cell,
    Column,
    Table,
    TableForm,
    cell_values,
    format_cell,
    show_controls,
)

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After the end of a row a bare bracket or star would be taken for the row's own option.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": "$-$",
    "\N{DAGGER}": r"\dag{}",
    "\N{DOUBLE DAGGER}": r"\ddag{}",
    "\N{MIDDLE DOT}": r"\textperiodcentered{}",
    "\N{SECTION SIGN}": r"\S{}",
    "\N{PILCROW SIGN}": r"\P{}",
    **{letter: f"\\{letter}" for letter in "_%&#${}"},
}
_MARKS = "\N{DAGGER}\N{DOUBLE DAGGER}\N{SECTION SIGN}\N{PILCROW SIGN}"
"""What a number may carry that points to a note."""


def render_tables(tables: Sequence[Table], form: TableForm, screen: Screen | None = None) -> list[str]:
    """Return tables as lines of text, an empty line between two.

    Args:
        tables: what to print.
        form: how.
        screen: what the terminal form is for; a file if none is given.
    """
    lines: list[str] = []
    for table in tables:
        lines += [""] * bool(lines)
        if form == "terminal":
            lines += render_terminal(table, screen or Screen())
        else:
            lines += {"markdown": render_markdown, "latex": render_latex, "csv": render_csv}[form](table)
    return lines


def quote_lines(lines: Sequence[str], form: TableForm) -> list[str]:
    """Return lines for people so that a document in this form can hold them.

    >>> quote_lines(["a_b", ""], "latex"), quote_lines(["a_b"], "markdown")
    (['% a_b', '%'], ['```text', 'a_b', '```'])
    """
    if form == "latex":
        return [f"% {line}".rstrip() for line in lines]
    return ["```text", *lines, "```"] if form == "markdown" else list(lines)


def escape_markdown(text: str) -> str:
    r"""Return text that Markdown shows as it is, in one cell of a table.

    >>> escape_markdown("a|b <i> acc_norm _x_")
    'a\\|b &lt;i&gt; acc_norm \\_x\\_'
    """
    escaped = re.sub(r"([\\|`*\[\]~$])", r"\\\1", show_controls(text))
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)  # inside a word it means nothing
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def render_markdown(table: Table) -> list[str]:
    """Return a heading, a table with aligned columns, and the notes as a list."""
    lines = [f"### {escape_markdown(table.title)}", ""] if table.title else []
    if table.rows:
        lines.append(_bar(escape_markdown(column.title) for column in table.columns))
        lines.append(_bar("---" if column.kind == "text" else "---:" for column in table.columns))
        lines += [_bar(_mark_up(table, row, escape_markdown, lambda number: number)) for row in table.rows]
    if table.notes:
        lines += [""] * bool(table.rows) + [f"- {escape_markdown(note)}" for note in table.notes]
    return lines


def _bar(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape_latex(text: str) -> str:
    r"""Return text that LaTeX sets as it is.

    >>> escape_latex("50% of a_b & {c} --task ~ ^")
    '50\\% of a\\_b \\& \\{c\\} -{}-task \\textasciitilde{} \\textasciicircum{}'
    """
    escaped = "".join(_LATEX.get(letter, letter) for letter in show_controls(text))
    return re.sub(r"-(?=-)", "-{}", escaped)  # two hyphens would become a dash


def render_latex(table: Table) -> list[str]:
    r"""Return a table for the package booktabs; letters beyond Latin need XeLaTeX or LuaLaTeX."""
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    if table.title:
        lines.append(rf"\caption{{{escape_latex(table.title)}}}")
    if table.rows:
        places = "".join("l" if column.kind == "text" else "r" for column in table.columns)
        lines += [rf"\begin{{tabular}}{{{places}}}", r"\toprule"]
        lines += [" & ".join(escape_latex(column.title) for column in table.columns) + r" \\", r"\midrule"]
        lines += [
            " & ".join(_mark_up(table, row, escape_latex, _latex_number)) + r" \\" for row in table.rows
        ]
        lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
        lines += [rf"{escape_latex(note)}\par" for note in table.notes]
        lines.append(r"\end{minipage}")
    return [*lines, r"\end{table}"]


def _latex_number(text: str) -> str:
    minus = re.sub(r"^-(?=[\d.])", "$-$", text)
    return "".join(_LATEX[letter] if letter in _MARKS else letter for letter in minus)


def render_csv(table: Table) -> list[str]:
    """Return RFC 4180 records without title and notes: one value per column, all digits.

    Each line but for line ends within a value lacks only the line feed of its CR LF.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow([name for column in table.columns for name in column.csv_names])
    for row in table.rows:
        writer.writerow(
            [
                value
                for column, cell in zip(table.columns, row, strict=True)
                for value in cell_values(column, cell)
            ]
        )
    return stream.getvalue().removesuffix("\n").split("\n")


def _mark_up(
    table: Table, row: tuple[Cell, ...], escape: Callable[[str], str], number: Callable[[str], str]
) -> list[str]:
    def mark_up(column: Column, cell: Cell) -> str:
        text = format_cell(column, cell)
        return escape(text) if column.kind == "text" else number(text)

    return [mark_up(column, cell) for column, cell in zip(table.columns, row, strict=True)]
