"""What a model gives to the options of a question, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from biomedllama_cli.chat.terminal.sanitise import sanitise, sanitise_line
from biomedllama_cli.chat.terminal.screen import Screen

if TYPE_CHECKING:
    from biomedllama_cli.chat.exam import ExamAnswer

_BAR = 10
"""Width of the bar of a probability of 1 (in character cells)."""
_WIDE = 76
"""From this width on (in character cells) the normalisations stand in the table."""
_NORMALISATIONS = (
    ("per_token", "per token"),
    ("per_character", "per char."),
    ("per_byte", "per byte"),
    ("domain_conditional", "less prior"),
)


def show_exam(screen: Screen, answer: ExamAnswer) -> None:
    """Show the probability of each option, its log-likelihood and the normalisations, then what is chosen."""
    if heading := answer.heading():
        screen.show(heading)
    rows = answer.rows()
    wide = screen.width >= _WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("option", overflow="fold")
    table.add_column("probability", no_wrap=True)
    table.add_column("log-lik.", justify="right", no_wrap=True)
    for _, heading in _NORMALISATIONS if wide else ():
        table.add_column(heading, justify="right", no_wrap=True)
    best = max(row["probability"] for row in rows)
    for row in rows:
        share = row["probability"]
        numbers = [row["log_likelihood"], *(row[key] for key, _ in _NORMALISATIONS if wide)]
        right = {True: " (right)", False: "", None: ""}[row["right"]]
        table.add_row(
            Text(row["letter"]),
            Text(sanitise_line(row["option"]) + right),
            Text(f"{draw_bar(share)} {share:.3f}"),
            *(Text(f"{number:.3f}") for number in numbers),
            style="bold" if share == best else "",
        )
    screen.print(table)
    screen.show(answer.verdict())
    for note in answer.notes():
        screen.show(sanitise(note), "dim")


def draw_bar(share: float) -> str:
    """Return a bar for a probability.

    >>> draw_bar(1.0), draw_bar(0.26), draw_bar(0.0)
    ('██████████', '███       ', '          ')
    """
    return ("█" * round(share * _BAR)).ljust(_BAR)
