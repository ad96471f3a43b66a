"""Help pages: one panel per section, nothing cut off on a narrow terminal.

Typer's own page puts flags, types and texts into columns and cuts what does not fit, which on 80 columns
is most environment names; here every text has the whole width.
"""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperGroup

from biomedllama_cli.cli.output import print_text

PLAIN_WIDTH = 100
"""Columns of a page that does not go to a terminal."""


def print_help(command: Any, context: Any) -> None:
    """Print usage, what the command does, its options by panel, and the commands of a group."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    with console.capture() as page:
        console.print(Padding(Text(command.get_usage(context), style="bold"), (1, 1, 0, 1)))
        console.print(Padding(Text(command.help or ""), 1))
        for title, options in group_options(command, context).items():
            _print_panel(console, title, [row for option in options for row in _option_rows(option)])
        if isinstance(command, TyperGroup):
            rows = [row for each in command.commands.values() for row in _rows(each.name, each.help)]
            _print_panel(console, "Commands", rows)
        if command.epilog:
            console.print(Padding(Text(command.epilog), (0, 1)))
    print_text(page.get().removesuffix("\n"))


def group_options(command: Any, context: Any) -> dict[str, list[Any]]:
    """Return a command's options by the title of their panel."""
    panels: dict[str, list[Any]] = {}
    for option in command.get_params(context):
        panels.setdefault(option.rich_help_panel or "Options", []).append(option)
    return panels


def _print_panel(console: Console, title: str, rows: list[RenderableType]) -> None:
    console.print(Panel(Group(*rows), title=escape(title), title_align="left", border_style="dim"))


def _option_rows(option: Any) -> list[RenderableType]:
    if option.param_type_name == "argument":
        return _rows(Text(option.metavar, style="bold cyan"), option.help)
    name = Text(", ".join(sorted(option.opts, reverse=True)), style="bold cyan")
    if option.secondary_opts:
        name.append(" / ", style="dim").append(option.secondary_opts[0], style="bold magenta")
    if option.metavar:
        name.append(f" {option.metavar}", style="yellow")
    return _rows(name, option.help)


def _rows(name: str | Text | None, text: str | None) -> list[RenderableType]:
    shown = name if isinstance(name, Text) else Text(name or "", style="bold cyan")
    return [shown, Padding(Text.from_markup(text or ""), (0, 0, 0, 4))]
