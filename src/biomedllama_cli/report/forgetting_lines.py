"""What a run forgot, as lines for people."""

from __future__ import annotations

from collections.abc import Sequence

from biomedllama_cli.evaluation.forgetting import AnswerChange, Look, TextChange
from biomedllama_cli.wording import name_count

_POSITIONS_SHOWN = 6


def show_forgetting(look: Look) -> list[str]:
    """Return the table of a look: every set now, as the model was given, and the change with its 95 % interval.

    >>> change = TextChange(name="notes", kind="general", documents=2, bits_per_byte=1.5, given=1.0, delta=0.5)
    >>> for line in show_forgetting(Look(step=9, texts=(change,), answers=(), positions=())):
    ...     print(line)
    After step 9, beside the model as it was given:
      notes  2 documents  1.0000 -> 1.5000 bits per byte  +0.5000
    """
    rows = [_text_row(text) for text in look.texts] + [_answer_row(task) for task in look.answers]
    if not rows:
        return []
    lines = [f"After step {look.step}, beside the model as it was given:", *_align(rows)]
    shown = [f"{place.places} {place.perplexity:.1f}" for place in look.positions]
    if len(shown) > _POSITIONS_SHOWN:
        shown = [*shown[:2], "...", *shown[2 - _POSITIONS_SHOWN :]]
    if shown:
        lines.append(f"Perplexity by the tokens before in the document: {', '.join(shown)}.")
    return lines


def _text_row(text: TextChange) -> tuple[str, ...]:
    name = text.name if text.kind == "general" else f"{text.name} (held out)"
    now = f"{text.bits_per_byte:.4f} bits per byte"
    values = now if text.given is None else f"{text.given:.4f} -> {now}"
    return name, name_count(text.documents, "document"), values, _show_change(text.delta, text.interval, 4)


def _answer_row(task: AnswerChange) -> tuple[str, ...]:
    now = f"{task.accuracy:.1%} right"
    values = now if task.given is None else f"{task.given:.1%} -> {now}"
    interval = None if task.interval is None else (100 * task.interval[0], 100 * task.interval[1])
    change = _show_change(None if task.delta is None else 100 * task.delta, interval, 1)
    return task.name, name_count(task.questions, "question"), values, f"{change} points" if change else ""


def _show_change(delta: float | None, interval: tuple[float, float] | None, decimals: int) -> str:
    if delta is None:
        return ""
    shown = f"{delta:+.{decimals}f}"
    return (
        shown if interval is None else f"{shown} [{interval[0]:+.{decimals}f}, {interval[1]:+.{decimals}f}]"
    )


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
