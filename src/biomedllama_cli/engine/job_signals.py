"""The stop signals that reach a launcher, from its first start to its last, forwarded to the workers of each."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from biomedllama_cli.engine.rank import STOP_SIGNALS


class JobSignals:
    """Keep the launcher alive through stop signals, and count them. A context manager.

    Outside the main thread, where Python allows no handlers, signals keep their meaning.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._find_workers: Callable[[], list[int]] = list
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> JobSignals:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @property
    def came(self) -> bool:
        """Return whether the launcher was asked to stop."""
        return bool(self.numbers)

    @contextlib.contextmanager
    def forwarded_to(self, find_workers: Callable[[], list[int]]) -> Iterator[None]:
        """Forward the signals that come now to processes, found when they come."""
        self._find_workers = find_workers
        try:
            yield
        finally:
            self._find_workers = list

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.numbers.append(number)
        for worker in self._find_workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, number)
