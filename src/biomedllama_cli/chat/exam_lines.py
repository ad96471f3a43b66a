"""An exam's answer as plain text."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from biomedllama_cli.chat.exam_answer import ExamAnswer
from biomedllama_cli.chat.terminal.sanitise import sanitise, sanitise_line
from biomedllama_cli.evaluation.scores import KINDS

_KIND_HEADINGS = {
    "sum": "sum",
    "per_token": "/token",
    "per_character": "/char",
    "per_byte": "/byte",
    "domain_conditional": "domain",
}
_NUMBERS = (
    ("probability", "prob", ".3f"),
    ("log_likelihood", "log-lik", ".2f"),
    ("domain_conditional", "domain", "+.2f"),
    ("per_character", "/char", ".3f"),
    ("per_token", "/token", ".3f"),
    ("per_byte", "/byte", ".3f"),
    ("without_question", "alone", ".3f"),
    ("tokens", "tokens", "d"),
)
"""Columns of numbers by weight: where a window is narrow the last ones are left out."""
_MEANINGS = {
    "domain_conditional": "domain: what the question adds (nats)",
    "without_question": "alone: probability without the question",
}
_BAR = 10
"""Width of the bar of a probability of 1 (in character cells)."""
_WIDE = 90
"""From this width on (in character cells) a bar stands beside the probability."""
_NARROWEST = 30
_NARROWEST_OPTION = 16
_NUMBER_WIDTH = 9


def show_answer(answer: ExamAnswer, width: int = 80, *, verbose: bool = False) -> list[str]:
    """Return an answer as lines of plain text; no character in them drives a terminal.

    Args:
        answer: to be shown.
        width: of the lines (in character cells); below 30 they are longer.
        verbose: also show every form of the question with what it chooses, and the prompts to the letter.
    """
    heading = answer.heading()
    lines = [*_wrap(heading, width), ""] if heading else []
    lines += [*_show_options(answer, width), "", *_wrap(answer.verdict(), width)]
    for note in answer.notes():
        lines += _wrap(note, width)
    if verbose:
        lines += ["", *show_matrix(answer, width), *show_prompts(answer)]
    return lines


def _show_options(answer: ExamAnswer, width: int) -> list[str]:
    bars = [""] if width >= _WIDE else []
    room = width - _NARROWEST_OPTION - 5 - len(bars) * (_BAR + 2)
    numbers = _NUMBERS[: max(1, min(len(_NUMBERS), room // _NUMBER_WIDTH))]
    rows = [
        [
            _mark(answer, row),
            row["letter"],
            sanitise_line(row["option"]),
            *(draw_bar(row["probability"]) for _ in bars),
            *(format(row[key], form) for key, _, form in numbers),
        ]
        for row in answer.rows()
    ]
    headings = ["", "", "option", *bars, *(heading for _, heading, _ in numbers)]
    lines = _render(headings, rows, width, texts=3 + len(bars))
    marks = ">: chosen" if answer.question.answer_index is None else ">: chosen, *: right"
    told = [meaning for key, meaning in _MEANINGS.items() if key in {key for key, _, _ in numbers}]
    return [*lines, *_wrap("; ".join([marks, *told]), width)]


def draw_bar(share: float) -> str:
    """Return a bar for a probability.

    >>> draw_bar(1.0), draw_bar(0.26), draw_bar(0.0)
    ('██████████', '███       ', '          ')
    """
    return ("█" * round(share * _BAR)).ljust(_BAR)


def _mark(answer: ExamAnswer, row: dict[str, Any]) -> str:
    chosen = answer.own_scores[0] in row["chosen_by"]
    return (">" if chosen else " ") + ("*" if row["right"] else " ")


def show_matrix(answer: ExamAnswer, width: int) -> list[str]:
    """Return what each form chooses under each normalisation, as an aligned table; * marks a right choice."""
    by_place = {(row["form"], row["kind"]): row for row in answer.matrix()}
    rows = []
    for form in answer.forms:
        cells = [by_place[form.name, kind] for kind in KINDS]
        chosen = [cell["chosen"] + ("*" if cell["right"] else "") for cell in cells]
        rows.append([form.name, repr(form.continuations[0]), *chosen])
    headings = ["form", "scored for A", *(_KIND_HEADINGS[kind] for kind in KINDS)]
    return ["Chosen by form and normalisation:", *_render(headings, rows, width, texts=2)]


def show_prompts(answer: ExamAnswer) -> Iterator[str]:
    """Yield each different prompt as it was asked, its lines marked and not wrapped."""
    by_prompt: dict[str, list[str]] = {}
    for form in answer.forms:
        by_prompt.setdefault(form.prompt, []).append(form.name)
    for prompt, names in by_prompt.items():
        yield ""
        yield f"Prompt of {', '.join(names)}:"
        for line in prompt.split("\n"):
            yield f"| {sanitise(line)}"


def _wrap(text: str, width: int) -> list[str]:
    return _print(Text(sanitise_line(text), overflow="fold"), width)


def _render(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, texts: int) -> list[str]:
    """Return an aligned table; the columns after the first `texts` hold numbers and are never broken."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        number = place >= texts
        table.add_column(
            Text(heading), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return _print(table, width)


def _print(content: Table | Text, width: int) -> list[str]:
    """Return lines of plain text, measured in character cells, whatever the environment says of colours."""
    stream = io.StringIO()
    console = Console(file=stream, width=max(width, _NARROWEST), color_system=None, _environ={})
    console.print(content)
    return [line.rstrip() for line in stream.getvalue().splitlines()]
