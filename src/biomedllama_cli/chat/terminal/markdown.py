"""Markdown of a reply as rich shows it, without anything hidden, and the blocks it is made of."""

from __future__ import annotations

import re
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.markdown import Heading, ListItem, Markdown
from rich.segment import Segment
from rich.text import Text

from biomedllama_cli.chat.terminal.sanitise import sanitise

_LONGEST_BLOCK = 20_000
"""A block of more characters is shown as it is: laying Markdown out costs more than its length from there on."""
_LONGEST_COLOURED = 4_000
"""Code of more characters is shown in one colour: the time that a lexer takes has no bound for what a model may say."""

_ITEM = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])(?:\s|$)")

# HTML would be left out of sight, an image's and a reference's target likewise: they are shown as they are written.
_parser = (
    MarkdownIt("commonmark", {"html": False})
    .enable(["strikethrough", "table"])
    .disable(["html_block", "html_inline", "image", "reference", "autolink"])
)


def render_markdown(text: str) -> RenderableType:
    """Return a block of sanitised Markdown for a console; the target of a link stands beside it."""
    if len(text) > _LONGEST_BLOCK:
        return Text(text)
    markdown = Markdown("", code_theme="ansi_dark", hyperlinks=False)
    markdown.elements = {**Markdown.elements, "heading_open": _Heading, "list_item_open": _Item}  # type: ignore[misc]
    markdown.parsed = _parser.parse(text)
    _prepare_tokens(markdown.parsed)
    return markdown


class _Heading(Heading):
    """A heading at the left margin, where the rest of the text begins."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}


class _Item(ListItem):
    """An item of a list, its number with the point it was written with."""

    def render_number(
        self, console: Console, options: ConsoleOptions, number: int, last_number: int
    ) -> RenderResult:
        """Yield the segments of a numbered item."""
        pointed = f"{number}."
        for place, segment in enumerate(super().render_number(console, options, number, last_number)):
            assert isinstance(segment, Segment)
            width = len(segment.text)
            yield segment if place else Segment(pointed.rjust(width - 1) + " ", segment.style)


def split_finished(text: str) -> int:
    r"""Return how many characters of a growing Markdown text are blocks that nothing that follows can change.

    Top-level blocks count, and the items of a list, so that a long list does not stay unfinished to its end.

    >>> split_finished("One.\n\nTwo, not fin")
    6
    >>> split_finished("- a\n- b\n- c")
    8
    >>> split_finished("```\ncode\n\nmore")
    0
    """
    if len(text) > _LONGEST_BLOCK:
        return text.rfind("\n") + 1
    starts = _block_starts(text)
    if len(starts) < 2:
        return 0
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: starts[-1]])


def begins_item(text: str) -> bool:
    r"""Tell whether Markdown begins with an item of a list.

    >>> begins_item("2. two"), begins_item("2 two")
    (True, False)
    """
    return _ITEM.match(text) is not None


def ends_in_item(text: str) -> bool:
    r"""Tell whether the last block of a Markdown text is a list.

    >>> ends_in_item("One:\n\n- a\n  b\n"), ends_in_item("- a\n\nEnd.\n")
    (True, False)
    """
    blocks = [token.type for token in _parser.parse(text) if token.level == 0]
    return bool(blocks) and blocks[-1].endswith("_list_close")


def _block_starts(text: str) -> list[int]:
    """Return the first line of each top-level block, and of each item of a top-level list."""
    lines = text.split("\n")
    starts: list[int] = []
    for token in _parser.parse(text):
        if token.map is None or token.map[0] in starts[-1:]:
            continue
        # An item that is indented as deep as code would be code without those before it.
        item = token.level == 1 and token.type == "list_item_open" and _ITEM.match(lines[token.map[0]])
        if item or (token.level == 0 and token.nesting >= 0):
            starts.append(token.map[0])
    return starts


def _prepare_tokens(tokens: list[Token]) -> None:
    """Keep the line ends of a reply, and sanitise once more: entities like `&#x202e;` are characters only now."""
    for token in tokens:
        token.type = "hardbreak" if token.type == "softbreak" else token.type
        token.content = sanitise(token.content)
        token.info = sanitise(token.info) if len(token.content) <= _LONGEST_COLOURED else ""
        token.attrs = {
            name: sanitise(value) if isinstance(value, str) else value for name, value in token.attrs.items()
        }
        _prepare_tokens(token.children or [])
