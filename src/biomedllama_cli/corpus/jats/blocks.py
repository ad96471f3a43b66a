"""Pieces of text put together to paragraphs, headings, lines and rows."""

from __future__ import annotations

from biomedllama_cli.corpus.jats.citations import START, drop_markers

_CELL = "\x03"
"""Between two cells until a row is finished; no XML document can contain it."""


class BlockBuffer:
    """Collects text in blocks, separated by a blank line, and in lines of blocks that belong together.

    Attributes:
        inline: pieces of the block that is being written.
    """

    def __init__(self) -> None:
        self.inline: list[str] = []
        self._blocks: list[str] = []
        self._separator = ""
        self._levels = 0
        self._rows = 0
        self._first_cell = True
        self._label_begins = False
        self._label_end: int | None = None

    def take_text(self) -> str:
        """Return everything written and forget it."""
        text = "".join(self._blocks)
        self._blocks.clear()
        self._separator = ""
        return text

    def write_line(self, text: str) -> None:
        """Add a block of one piece."""
        self.inline.append(text)
        self.end_block()

    def end_block(self) -> None:
        """Finish what is being written; inside a row only a space."""
        if self._rows:
            self.inline.append(" ")
            return
        self._label_end = None
        text = " ".join("".join(self.inline).split())
        self.inline.clear()
        if START in text:
            text = drop_markers(text)
        if _CELL in text:
            text = text.replace(_CELL, "|") if text.strip(_CELL + " ") else ""
        if text:
            self._blocks += (self._separator, text)
            self._separator = "\n" if self._levels else "\n\n"

    def break_block(self) -> None:
        """Finish what comes before a block, except for a label, which goes in front of it."""
        if self._label_end is None or not _is_blank(self.inline[self._label_end :]):
            self.end_block()
        else:
            self.inline.append(" ")

    def open_lines(self, *, attached: bool = False) -> None:
        """Begin blocks that belong together: lines, until `close_lines`.

        Args:
            attached: to the block before them, too.
        """
        written = len(self._blocks)
        self.break_block()
        if attached and len(self._blocks) > written:
            self._separator = "\n"
        self._levels += 1

    def close_lines(self, *, attached: bool = False) -> None:
        """End blocks that belong together.

        Args:
            attached: to the block after them, too.
        """
        self.end_block()
        self._levels -= 1
        if self._blocks:
            self._separator = "\n" if self._levels or attached else "\n\n"

    def open_label(self) -> None:
        """Begin a label: it goes in front of the next block unless it stands behind text."""
        self._label_begins = not self._rows and _is_blank(self.inline)
        self.inline.append(" ")

    def close_label(self, mark: str) -> None:
        """End a label, with a mark where it ends in a word, a number or a bracket."""
        last = "".join(self.inline[-4:]).rstrip()[-1:]
        self.inline.append(f"{mark} " if last.isalnum() or (mark == ":" and last in (")", "]")) else " ")
        self._label_end = len(self.inline) if self._label_begins else None

    def open_row(self) -> None:
        """Begin a row of a table; a row inside a row is text of its cell."""
        self.end_block()
        self._first_cell = self._first_cell or not self._rows
        self._rows += 1

    def open_cell(self) -> None:
        """Begin a cell: ` | ` stands between two."""
        self.inline.append(" " if self._first_cell or self._rows != 1 else f" {_CELL} ")
        self._first_cell = False

    def close_row(self) -> None:
        """End a row."""
        self._rows -= 1
        if not self._rows:
            self._first_cell = True
        self.end_block()


def _is_blank(pieces: list[str]) -> bool:
    return all(piece.isspace() or not piece for piece in pieces)
