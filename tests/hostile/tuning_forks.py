"""Start `biomedllama finetune` and `instruct` again and again in milliseconds, and stop them at a given place.

A program like `evaluate_forks`, beside which it lies, with one order more; see `obey`.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
from pathlib import Path
from typing import Any

from evaluate_forks import METALS, serve
from evaluate_forks import obey as obey_evaluate


def write_questions(file: Path, count: int, first: int = 0) -> Path:
    """Write made-up questions of one's own, of very different lengths."""
    rows = []
    for number in range(first, first + count):
        options = {letter: METALS[(number + place) % 6] for place, letter in enumerate("ABCD")}
        stem = f"Which metal of the made-up list has number {number} and the sign {chr(97 + number % 26)}?"
        rows.append(
            {
                "question": stem + " It is as heavy as the one before." * (number * 7 % 5),
                "options": options,
                "answer_index": number * 5 % 4,
            }
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def obey(order: dict[str, Any]) -> None:
    """Be one start of the command.

    Args:
        order: as for `evaluate`; and `stop`: module, function or Class.method in it, number of a call, and the name of
            the signal that this process gets at that call. A function is changed in the module that calls it.
    """
    if "stop" in order:
        send_signal(*order["stop"])
    obey_evaluate(order)


def send_signal(module: str, name: str, number: int, sent: str) -> None:
    """Have a call of a function begin with a signal to this process; `-` counts calls whose end brings the signal."""
    *path, last = name.split(".")
    holder = functools.reduce(getattr, path, importlib.import_module(module))
    original, calls = getattr(holder, last), [0]

    @functools.wraps(original)
    def counted(*arguments: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.Signals[sent])
        result = original(*arguments, **more)
        if calls[0] == -number:
            os.kill(os.getpid(), signal.Signals[sent])
        return result

    setattr(holder, last, counted)


if __name__ == "__main__":
    for needed in ("peft", "matplotlib.pyplot", "statsmodels.stats.contingency_tables", "scipy.stats"):
        importlib.import_module(needed)  # otherwise every start would take the seconds of importing them
    importlib.import_module("biomedllama_cli.recipes.evaluate_model")
    importlib.import_module("biomedllama_cli.recipes.instruct")
    serve("biomedllama_cli.recipes.finetune", obey)
