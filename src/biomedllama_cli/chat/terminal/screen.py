"""Where a chat is written: one way out for every character, on a terminal or on what is none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO, cast

from rich.console import Console, RenderableType
from rich.live import Live
from rich.segment import Segment, SegmentLines
from rich.text import Text

from biomedllama_cli.chat.terminal.markdown import render_markdown
from biomedllama_cli.chat.terminal.sanitise import sanitise, sanitise_line

Line = list[Segment]


def find_terminal() -> TextIO:
    """Return the stream that reaches a terminal: stderr, else stdout as the process was given it, else stderr.

    The command runs with `sys.stdout` turned to stderr, so that its report stands alone on stdout; `2> log` must not
    take the chat with it.
    """
    for stream in (sys.stderr, sys.__stdout__):
        if stream is not None and stream.isatty():
            return stream
    return sys.stderr


class Draw(Protocol):
    """Redraws the moving lines, and prints what is finished above them."""

    def __call__(self, lines: Sequence[Line], above: Sequence[Line] = ()) -> None:
        """Draw."""
        ...


class Screen:
    """Writes text, tables and replies; nothing that passes here can drive the terminal.

    Args:
        stream: what is written to.
        plain: no Markdown, colours or moving text; None finds out: no terminal, `TERM=dumb`, `NO_COLOR`, or one
            without Unicode.
    """

    def __init__(self, stream: TextIO, *, plain: bool | None = None) -> None:
        self.terminal = stream
        self.stream = _LastingStream(stream)
        self.is_terminal = stream.isatty()
        dumb = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
        self.moves = self.is_terminal and not dumb
        # A stream that writes a letter as its number would not have the width that was counted for it.
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
        able = self.moves and encoding.startswith("utf") and not os.environ.get("NO_COLOR")
        self.plain = not able if plain is None else plain
        _never_fail(stream)
        self.console = Console(
            file=cast(TextIO, self.stream),
            force_terminal=not self.plain,
            force_interactive=not self.plain,
            no_color=self.plain,
            color_system=None if self.plain else "auto",
            markup=False,
            emoji=False,
            highlight=False,
            legacy_windows=False,
        )

    @property
    def width(self) -> int:
        """Width of the window (in character cells)."""
        return self.console.size.width

    @property
    def height(self) -> int:
        """Height of the window (in lines)."""
        return self.console.size.height

    def show(self, text: str, style: str = "") -> None:
        """Write lines of text, wrapped between words; without a terminal as they are."""
        if not self.is_terminal:
            self.write(sanitise(text) + "\n")
        else:
            self.print(Text(sanitise(text), style=style))

    def print(self, renderable: RenderableType) -> None:
        """Write what rich can lay out."""
        self.put(self.lay_out(renderable))

    def put(self, lines: Sequence[Line]) -> None:
        """Write lines that were laid out."""
        self.console.print(SegmentLines(lines, new_lines=True), end="", soft_wrap=True)

    def write(self, text: str) -> None:
        """Write sanitised text at once, as it is."""
        self.stream.write(text)
        self.stream.flush()

    def lay_out(self, renderable: RenderableType, width: int | None = None) -> list[Line]:
        """Return the lines of what rich can lay out, without empty ones around it; nothing in them acts."""
        options = self.console.options.update(width=width or self.width, height=None)
        lines = [
            [_disarm(segment) for segment in line if not segment.control]
            for line in self.console.render_lines(renderable, options, pad=False)
        ]
        while lines and _is_blank(lines[-1]):
            lines.pop()
        while lines and _is_blank(lines[0]):
            lines.pop(0)
        return lines

    def lay_out_markdown(self, text: str, width: int | None = None) -> list[Line]:
        """Return the lines of sanitised Markdown."""
        return self.lay_out(render_markdown(text), width)

    def lay_out_title(self, text: str, width: int | None = None) -> list[Line]:
        """Return the lines of a model's name."""
        return self.lay_out(Text(sanitise_line(text), style="bold cyan"), width)

    @contextmanager
    def moving(self) -> Iterator[Draw]:
        """Hand out a function that redraws lines at the end of the window; they are gone at the end.

        What is printed meanwhile, by the chat or by a log, stands above them. No more lines are drawn than the window
        has, so that none of them can leave it, and a window that became narrower loses nothing: at worst a terminal
        that breaks its old lines anew keeps a few of them above.
        """
        with Live(console=self.console, auto_refresh=False, transient=True) as live:

            def draw(lines: Sequence[Line], above: Sequence[Line] = ()) -> None:
                live.update(SegmentLines(list(lines[-self.room :]) or [[]], new_lines=True))
                if above:
                    self.put(above)  # with the new lines below, in one go
                else:
                    live.refresh()

            yield draw

    @property
    def room(self) -> int:
        """How many moving lines the window holds."""
        return max(self.height - 2, 1)


class _LastingStream:
    """A stream whose reader may go: a closed window must not take the reply with it that is being written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as long as somebody reads."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush likewise."""
        with suppress(OSError):
            self._stream.flush()


def _disarm(segment: Segment) -> Segment:
    """Return a segment whose text is only text and whose style hides no link."""
    style = segment.style
    if style is not None and style.link:
        style = style.update_link(None)
    return Segment(sanitise(segment.text), style)


def _is_blank(line: Line) -> bool:
    return not any(segment.text.strip() for segment in line)


def _never_fail(stream: TextIO) -> None:
    """Let a stream that cannot show a letter write its number instead."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and getattr(stream, "errors", "") == "strict":
        reconfigure(errors="backslashreplace")
