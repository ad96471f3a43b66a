"""The help page of a command: one panel per section, nothing cut off on a narrow terminal.

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

PLAIN_WIDTH = 100
"""Columns of a page that does not go to a terminal."""


def print_help(command: Any, context: Any) -> None:
    """Print usage, what the command does, and its options by panel, in the order they were made."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    console.print(Padding(Text(command.get_usage(context), style="bold"), (1, 1, 0, 1)))
    console.print(Padding(Text(command.help or ""), 1))
    for title, options in group_options(command, context).items():
        rows = [row for option in options for row in _rows(option)]
        console.print(Panel(Group(*rows), title=escape(title), title_align="left", border_style="dim"))


def group_options(command: Any, context: Any) -> dict[str, list[Any]]:
    """Return a command's options by the title of their panel."""
    panels: dict[str, list[Any]] = {}
    for option in command.get_params(context):
        panels.setdefault(option.rich_help_panel or "Options", []).append(option)
    return panels


def _rows(option: Any) -> list[RenderableType]:
    name = Text(", ".join(sorted(option.opts, reverse=True)), style="bold cyan")
    if option.secondary_opts:
        name.append(" / ", style="dim").append(option.secondary_opts[0], style="bold magenta")
    if option.metavar:
        name.append(f" {option.metavar}", style="yellow")
    return [name, Padding(Text.from_markup(option.help or ""), (0, 0, 0, 4))]
