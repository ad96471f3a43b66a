"""Keep lm-eval to itself: it prints, shows bars and logs as if it were the program."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import datasets


@contextlib.contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep lm-eval and `datasets` off stdout, their bars off the terminal and their commentary off the log."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    task_module: Any = importlib.import_module("lm_eval.api.task")
    bar = task_module.tqdm
    task_module.tqdm = lambda items, *_, **__: items  # the bar over contexts has no switch
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        task_module.tqdm = bar
        if had_bars:
            datasets.enable_progress_bars()
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
