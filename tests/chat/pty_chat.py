"""A program on a terminal of its own: what is typed, what its screen shows, and every byte it wrote."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte

PATIENCE_SECONDS = float(os.environ.get("PATIENCE", 60))
"""How long a screen is waited for: far longer than any machine needs, since only a program that hangs takes it."""

KEYS = {"enter": "\r", "up": "\x1b[A", "down": "\x1b[B", "tab": "\t", "alt-enter": "\x1b\r"} | {
    f"ctrl-{letter}": chr(ord(letter) - 96) for letter in "abcdefghijklmnopqrstuvwxyz"
}


class _Screen(pyte.HistoryScreen):
    """Answers what a terminal is asked, as prompt_toolkit does to learn where the cursor is."""

    def __init__(self, columns: int, rows: int, answer: Callable[[str], None]) -> None:
        super().__init__(columns, rows, history=5000, ratio=0.1)
        self._answer = answer

    def change_size(self, columns: int, rows: int) -> None:
        """Take another size as terminals do: what is too high goes into the scrollback, and is not deleted."""
        gone = max(self.cursor.y + 1 - rows, 0)
        self.history.top.extend(self.buffer[row] for row in range(gone))
        kept = {row - gone: self.buffer[row] for row in range(gone, self.cursor.y + 1)}
        self.buffer.clear()
        self.buffer.update(kept)
        self.cursor.y -= gone
        self.lines = rows
        self.resize(rows, columns)

    def write_process_input(self, data: str) -> None:
        self._answer(data)


class PtyProgram:
    """Runs a program on a pseudo-terminal.

    Args:
        arguments: of the Python interpreter.
        columns: width of the window.
        rows: its height.
        env: variables that differ; None takes one away.
    """

    def __init__(
        self,
        arguments: list[str],
        *,
        columns: int = 80,
        rows: int = 24,
        env: dict[str, str | None] | None = None,
    ) -> None:
        changes: dict[str, str | None] = {"TERM": "xterm-256color", "LANG": "C.UTF-8"}
        changes |= dict.fromkeys(("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR", "CI", "LC_ALL", "COLORTERM"))
        changes |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": None} | (env or {})
        whole = {name: value for name, value in os.environ.items() if name not in changes}
        whole |= {name: value for name, value in changes.items() if value is not None}
        self.raw = b""
        self._child = pexpect.spawn(
            sys.executable, arguments, env=whole, dimensions=(rows, columns), timeout=PATIENCE_SECONDS
        )
        self._child.delaybeforesend = None
        self._screen = _Screen(columns, rows, self._child.send)
        self._stream = pyte.ByteStream(self._screen)

    def __enter__(self) -> PtyProgram:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.close(force=True)

    @property
    def pid(self) -> int:
        return int(self._child.pid)

    @property
    def handle(self) -> int:
        """File descriptor of the terminal, whose modes are the program's."""
        return int(self._child.child_fd)

    def hang_up(self) -> None:
        """Close the window and wait for the end of the program."""
        process = self._child.ptyproc
        process.fileobj.close()
        end = time.monotonic() + PATIENCE_SECONDS
        while process.isalive():
            assert time.monotonic() < end, "the program outlives its window"
            time.sleep(0.02)
        process.closed = True

    def type(self, text: str) -> None:
        self.type_bytes(text.encode())

    def type_bytes(self, content: bytes) -> None:
        """Type what may be no text."""
        self._child.send(content)

    def press(self, key: str) -> None:
        self.type(KEYS[key])

    def say(self, text: str) -> None:
        """Type a line and send it."""
        self.type(text)
        self.press("enter")

    def paste(self, text: str) -> None:
        """Paste as a terminal does that was asked to mark it: with its line ends as carriage returns."""
        self.type("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~")

    def resize(self, columns: int, rows: int) -> None:
        """Make the window another size; the program gets SIGWINCH."""
        self._screen.change_size(columns, rows)
        self._child.setwinsize(rows, columns)

    def kill(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    @property
    def lines(self) -> list[str]:
        """What the window and its scrollback show, from the first line to the last that is not empty."""
        above = [
            "".join(row[column].data for column in range(len(row) and max(row) + 1)).rstrip()
            for row in self._screen.history.top
        ]
        return ("\n".join([*above, *(line.rstrip() for line in self._screen.display)])).rstrip().split("\n")

    @property
    def title(self) -> str:
        """Of the window, as the program set it."""
        return str(self._screen.title)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def window(self) -> str:
        """What the window shows now."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def wait(self, condition: Callable[[PtyProgram], bool], what: str) -> None:
        """Read until the screen is as it shall be.

        Raises:
            AssertionError: it never was.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition(self):
            ended = not self._read(0.05)
            assert not (ended and not condition(self)), f"the program ended before {what}:\n{self.text}"
            assert time.monotonic() < end, f"waited for {what}, saw:\n{self.text}"

    def expect(self, text: str, times: int = 1) -> None:
        """Wait until a text stands somewhere on the screen."""
        self.wait(lambda screen: screen.text.count(text) >= times, repr(text))

    def expect_end(self) -> int:
        """Wait for the end of the program and return its exit code, negative where a signal ended it."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._read(0.2):
            assert time.monotonic() < end, f"the program goes on:\n{self.text}"
        self._child.wait()
        return -self._child.signalstatus if self._child.signalstatus else int(self._child.exitstatus or 0)

    def _read(self, seconds: float) -> bool:
        """Show what has come; False at the end of the program."""
        try:
            data = self._child.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        return True


def start_chat(
    *arguments: str, columns: int = 80, rows: int = 24, env: dict[str, str | None] | None = None
) -> PtyProgram:
    """Start the chat of `chat_program.py` with its arguments."""
    program = Path(__file__).with_name("chat_program.py")
    return PtyProgram([str(program), *arguments], columns=columns, rows=rows, env=env)
