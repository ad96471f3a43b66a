"""What Ctrl-C and the signals that end a program do, by what the chat is busy with."""

from __future__ import annotations

import select
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, TextIO

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_NO_KEY = b"\0"
"""Of a terminal's function that no key has (`_POSIX_VDISABLE`)."""


class Interrupts:
    """Signals of a chat; a context manager.

    A reply is stopped and its part kept; waiting (for passages, for a model) is broken off; what must be whole (the
    conversation, its file) is not disturbed. SIGTERM and SIGHUP end the chat after that.

    Attributes:
        ended_by: name of the signal that ends the chat.
    """

    def __init__(self) -> None:
        self.ended_by: str | None = None
        self._pressed = False
        self._act: Callable[[], None] | None = None
        self._leave: Callable[[], None] | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        """Install the handlers; outside the main thread, where Python allows none, signals keep their meaning."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *_ENDING):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def press(self) -> None:
        """Take a Ctrl-C that was pressed after a message was sent: what comes next is broken off."""
        self._pressed = True

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call a function at every signal; twice, where Ctrl-C is pressed twice."""
        with self._acting(stop):
            if self._take_press():
                stop()
            yield

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at a signal."""
        if self._take_press() or self.ended_by is not None:
            raise KeyboardInterrupt
        with self._acting(_raise):
            yield

    @contextmanager
    def prompting(self, leave: Callable[[], None]) -> Iterator[None]:
        """Call a function at a signal that ends the chat; Ctrl-C is the line editor's.

        The editor puts SIGINT back to what Python has it do, so the handler is installed anew.
        """
        self._leave, self._pressed = leave, False
        try:
            if self.ended_by is not None:
                raise EOFError
            yield
        finally:
            self._leave = None
            if self._previous:
                signal.signal(signal.SIGINT, self._handle)

    def _take_press(self) -> bool:
        pressed, self._pressed = self._pressed, False
        return pressed

    @contextmanager
    def _acting(self, act: Callable[[], None]) -> Iterator[None]:
        before, self._act = self._act, act
        try:
            yield
        finally:
            self._act = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number in _ENDING:
            self.ended_by = signal.Signals(number).name
            if self._leave is not None:
                self._leave()
                return
        if self._act is not None:
            self._act()
        else:
            self._pressed = True  # on the way to what it is meant for


def _raise() -> None:
    raise KeyboardInterrupt


def drop_typed(stream: TextIO) -> bool:
    """Forget what was typed while the models were loaded; tell whether it held a line.

    The terminal has turned its Enter into a line feed, which the line editor takes for a line more, not for the end.
    """
    typed = bool(select.select([stream], [], [], 0)[0])
    termios.tcflush(stream, termios.TCIFLUSH)
    return typed


@contextmanager
def quiet_keys(stream: TextIO, *, lines: bool = True) -> Iterator[None]:
    """Keep what is typed from the screen while the chat is busy; it waits for the next prompt.

    Args:
        stream: the terminal it is typed on.
        lines: whether the terminal goes on collecting lines. Else keys come as they are pressed, as the line editor
            expects them: Enter as a carriage return, Ctrl-D as a character; Ctrl-C stays a signal.
    """
    if not stream.isatty():
        yield
        return
    handle = stream.fileno()
    before = termios.tcgetattr(handle)
    quiet = termios.tcgetattr(handle)
    quiet[3] &= ~termios.ECHO
    quiet[3] |= termios.NOFLSH  # Ctrl-C must not throw away what was typed ahead
    # Stopped here, the chat would leave the shell a terminal without cursor or echo: Ctrl-Z waits for the prompt.
    quiet[6][termios.VSUSP] = _NO_KEY
    if not lines:
        quiet[0] &= ~termios.ICRNL
        quiet[3] &= ~termios.ICANON
        quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
    termios.tcsetattr(handle, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(handle, termios.TCSADRAIN, before)
