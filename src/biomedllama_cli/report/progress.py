"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)


class Progress:
    """Show how far a long job is, how fast it goes and what is left.

    Args:
        description: what is being done.
        total: units of work in all, or None when unknown.
        unit: name of one unit, plural.
        every_seconds: least time between two lines when stderr is not a terminal.
    """

    def __init__(
        self, description: str, total: float | None, unit: str, *, every_seconds: float = 30.0
    ) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._every_seconds = every_seconds
        self._done = self._done_before = 0.0
        self._bar: RichProgress | None = None
        self.started = False

    def __enter__(self) -> Progress:
        """Start the clock and, on a terminal, the bar."""
        self.started = True
        self._start = self._last_line = time.monotonic()
        # Of several processes that share a terminal the first one shows how far they are.
        if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),  # names of files stand in it
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._description, total=self._total, note="")
        return self

    def start_at(self, done: float) -> None:
        """Count from `done` units, which an earlier start has finished; speed and time left are of this start."""
        self._done = self._done_before = done
        self._start = self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, total=self._total, completed=int(done))

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Add finished units; `note` is shown beside them (loss, speed)."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=note)
        elif time.monotonic() - self._last_line >= self._every_seconds:
            self._last_line = time.monotonic()
            logger.info("%s", self._line(note))

    def _line(self, note: str) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        speed = (self._done - self._done_before) / seconds
        text = f"{self._description}: {self._done:,.0f}"
        if self._total:
            left = (self._total - self._done) / speed if speed else float("inf")
            text += f" of {self._total:,.0f} {self._unit}, {name_speed(speed)}, {left:,.0f} s left"
        else:
            text += f" {self._unit}, {name_speed(speed)}"
        return f"{text}  {note}".rstrip()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()


def name_speed(speed: float) -> str:
    """Return units per second, or where they are few, per minute.

    >>> name_speed(1234.56), name_speed(0.05)
    ('1,234.6/s', '3.0/min')
    """
    return f"{speed:,.1f}/s" if speed >= 1 else f"{60 * speed:,.1f}/min"
