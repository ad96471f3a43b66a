"""Markdown of a reply as rich shows it, without anything hidden, and the blocks it is made of."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import RenderableType
from rich.markdown import Markdown
from rich.text import Text

from biomedllama_cli.chat.terminal.sanitise import sanitise

_LONGEST_BLOCK = 20_000
"""A block of more characters is shown as it is: laying Markdown out costs more than its length from there on."""

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
    markdown.markup = text
    markdown.parsed = _parser.parse(text)
    _sanitise_tokens(markdown.parsed)
    return markdown


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
    starts = _block_starts(_parser.parse(text))
    if len(starts) < 2:
        return 0
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: starts[-1]])


def _block_starts(tokens: list[Token]) -> list[int]:
    """Return the first line of each top-level block, and of each item of a top-level list."""
    starts: list[int] = []
    for token in tokens:
        item = token.level == 1 and token.type == "list_item_open"
        block = token.level == 0 and token.nesting >= 0
        if (item or block) and token.map is not None and token.map[0] not in starts[-1:]:
            starts.append(token.map[0])
    return starts


def _sanitise_tokens(tokens: list[Token]) -> None:
    """Sanitise once more: entities like `&#x202e;` have become characters only now."""
    for token in tokens:
        token.content = sanitise(token.content)
        token.info = sanitise(token.info)
        token.attrs = {
            name: sanitise(value) if isinstance(value, str) else value for name, value in token.attrs.items()
        }
        _sanitise_tokens(token.children or [])
