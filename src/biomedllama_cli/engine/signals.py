"""Stop politely: the first signal asks for a checkpoint, a second Ctrl-C stops at once."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from biomedllama_cli.engine.rank import die_with_parent

logger = logging.getLogger(__name__)

LOADER_GRACE_SECONDS = 600
"""How long a loader process outlives a SIGTERM: longer than any step."""


class StopRequest:
    """Turn SIGTERM and SIGINT into a request that the loop answers at the end of its step.

    A context manager; outside the main thread, where Python allows no handlers, signals keep their meaning.

    Args:
        piece: what is finished before the end, for the message.
    """

    def __init__(self, piece: str = "the step") -> None:
        self._piece = piece
        self.signal_name: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Return whether this process was asked to stop."""
        return self.signal_name is not None

    def __enter__(self) -> StopRequest:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.signal_name == name:
            raise KeyboardInterrupt
        self.signal_name = name
        again = " (Ctrl-C again stops at once, without saving)" if number == signal.SIGINT else ""
        logger.warning("%s: finishing %s and saving%s", name, self._piece, again)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def keep_signals_from_loader(worker: int) -> None:
    """Keep a loader process alive through the signals that ask its parent to stop.

    Launchers and schedulers send SIGTERM to the whole process group, and the parent still needs its loader for the step
    it is finishing. Ctrl-C is ignored, SIGTERM ends the process only after a while, its parent's end at once.
    """
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(LOADER_GRACE_SECONDS))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
