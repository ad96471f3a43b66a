"""A reply on the screen while it comes: finished blocks stay, the last one moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from rich.segment import Segment

from biomedllama_cli.chat.terminal.markdown import begins_item, ends_in_item, split_finished
from biomedllama_cli.chat.terminal.sanitise import StreamSanitiser
from biomedllama_cli.chat.terminal.screen import Draw, Line, Screen

_SECONDS = 0.08
"""Least time between two drawings."""
_SHARE = 4
"""Drawing may take one part in this many of the time, however long the last block grows."""
_GAP = 3
"""Between two columns (in character cells)."""
_WAITING: Line = [Segment("…")]


def stream_plain(screen: Screen, pieces: Iterable[str]) -> None:
    """Write a reply as it comes, without Markdown."""
    sanitiser = StreamSanitiser()
    last = "\n"
    for piece in pieces:
        text = sanitiser.feed(piece)
        screen.write(text)
        last = text[-1:] or last
    rest = sanitiser.close()
    screen.write(rest + ("" if (rest or last).endswith("\n") else "\n"))


def stream_markdown(screen: Screen, pieces: Iterable[str]) -> None:
    """Write a reply as it comes, as Markdown."""
    with screen.moving() as draw:
        growing = _Growing(screen, draw)
        for piece in pieces:
            growing.add(piece)
        rest = growing.finish()
    screen.put(rest)


class Pace:
    """Tells when to draw next, so that drawing costs a bounded share of the time."""

    def __init__(self) -> None:
        self._next = 0.0

    def draw(self, work: Callable[[], None]) -> None:
        """Do the work unless it is too early for it."""
        start = time.monotonic()
        if start < self._next:
            return
        work()
        end = time.monotonic()
        self._next = end + max(_SECONDS, (end - start) * (_SHARE - 1))


class _Growing:
    """The part of a reply that is not finished yet; what is finished is printed and forgotten."""

    def __init__(self, screen: Screen, draw: Draw) -> None:
        self._screen = screen
        self._draw = draw
        self._sanitiser = StreamSanitiser()
        self._pace = Pace()
        self._text = ""
        self._above = ""
        draw([_WAITING])

    def add(self, piece: str) -> None:
        """Take the next piece."""
        self._text += self._sanitiser.feed(piece)
        self._pace.draw(self._show)

    def finish(self) -> list[Line]:
        """Return the lines that still have to be printed."""
        self._text += self._sanitiser.close()
        return self._lines(self._text)

    def _show(self) -> None:
        cut = split_finished(self._text)
        finished, self._text = self._text[:cut], self._text[cut:]
        above = self._lines(finished)
        if above:
            self._above = finished
        self._draw(self._lines(self._text), above)

    def _lines(self, text: str) -> list[Line]:
        lines = self._screen.lay_out_markdown(text)
        if lines and self._above and not (begins_item(text) and ends_in_item(self._above)):
            return [[], *lines]
        return lines


def stream_beside(screen: Screen, streams: Sequence[Iterable[str]], titles: Sequence[str]) -> None:
    """Write replies of several models, each in its column, one after the other.

    The columns move while they grow: their ends are shown. Whoever calls this prints the whole of them.
    """
    texts = [""] * len(streams)
    pace = Pace()
    with screen.moving() as draw:

        def show() -> None:
            room = screen.room - 2
            columns = [screen.lay_out_markdown(text, column_width(screen, len(texts))) for text in texts]
            draw(join_columns(screen, titles, [column[-room:] or [_WAITING] for column in columns]))

        show()
        for number, stream in enumerate(streams):
            sanitiser = StreamSanitiser()
            for piece in stream:
                texts[number] += sanitiser.feed(piece)
                pace.draw(show)
            texts[number] += sanitiser.close()


def column_width(screen: Screen, count: int) -> int:
    """Return the width of each of some columns (in character cells)."""
    return max((screen.width - _GAP * (count - 1)) // count, 1)


def join_columns(screen: Screen, titles: Sequence[str], columns: Sequence[Sequence[Line]]) -> list[Line]:
    """Return the lines of columns side by side, each below its title."""
    width = column_width(screen, len(columns))
    heads = [screen.lay_out_title(title, width) for title in titles]
    filled = [[*head, [], *column] for head, column in zip(heads, columns, strict=True)]
    joined: list[Line] = []
    for row in range(max(map(len, filled))):
        line: Line = []
        for number, column in enumerate(filled):
            part = list(column[row]) if row < len(column) else []
            last = number == len(filled) - 1
            line += part if last else [*Segment.adjust_line_length(part, width), Segment(" " * _GAP)]
        joined.append(line)
    return joined
