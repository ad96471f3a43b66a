"""Stop politely: the first signal asks for a checkpoint, a second Ctrl-C stops at once.

A command with several stages is stopped by `Resumption` where no stage listens: nothing is to be saved there.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from biomedllama_cli.engine.rank import STOP_SIGNALS, die_with_parent
from biomedllama_cli.engine.sharding import read_world
from biomedllama_cli.errors import Resumable

logger = logging.getLogger(__name__)

LOADER_GRACE_SECONDS = 600
"""How long a loader process outlives a SIGTERM: longer than any step."""


class StopRequest:
    """Turn a stop signal (SIGTERM, SIGUSR1, Ctrl-C) into a request that the loop answers at the end of its step.

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
            for number in STOP_SIGNALS:
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
        """Put the former handlers back, and hand a signal that came too late for an answer on to the command's."""
        between = any(
            isinstance(getattr(each, "__self__", None), Resumption) for each in self._previous.values()
        )
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        if between and error is None and self.signal_name is not None:
            signal.raise_signal(signal.Signals[self.signal_name])


class StoppedAlone(Resumable):
    """A process of a job was stopped where nothing is saved together: the others, which may wait for it, end too."""


class Resumption:
    """Turn a stop signal between the stages of a command into its end, which the same command continues.

    A context manager around all of a command whose stages have a `StopRequest` of their own. Everything such a
    command writes must be whole or absent after a kill, since the end comes at once, wherever the command is.
    """

    def __init__(self) -> None:
        self._signal_name: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Resumption:
        """Install the handlers; outside the main thread, where Python allows none, signals keep their meaning."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signal_name = signal.Signals(number).name
        raise KeyboardInterrupt  # which, unlike an error, nobody on the way catches

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back.

        Raises:
            Resumable: a signal ended the body.
        """
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        if self._signal_name is not None and isinstance(error, KeyboardInterrupt):
            stopped = Resumable if read_world().world_size == 1 else StoppedAlone
            raise stopped(
                f"Stopped by {self._signal_name}; what is finished is kept.", "The same command continues."
            ) from None


def keep_signals_from_loader(worker: int) -> None:
    """Keep a loader process alive through the signals that ask its parent to stop.

    Launchers and schedulers send SIGTERM to the whole process group, and the parent still needs its loader for the step
    it is finishing. Ctrl-C and SIGUSR1 are ignored; SIGTERM ends the process only after a while, its parent's end at
    once.
    """
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(LOADER_GRACE_SECONDS))
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
