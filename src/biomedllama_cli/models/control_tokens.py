"""Tokens that steer a conversation (BOS, EOS, ends of turns), told apart from the same letters in somebody's text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from biomedllama_cli.models.pieces import Piece
from biomedllama_cli.models.tokenizer import Tokenizer

_FIRST_MARK = 0xF0000
"""Private-use characters from here on mark control tokens spelled inside a text, while it passes through a template."""


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A token that only a template may write.

    Attributes:
        token_id: its id.
        strips_left: whether white space before it is not encoded.
        strips_right: likewise after it.
    """

    token_id: int
    strips_left: bool = False
    strips_right: bool = False


def list_control_tokens(tokenizer: Tokenizer) -> dict[str, tuple[ControlToken, bool]]:
    """Return the added tokens of a tokenizer by their text, each with whether it is marked as special."""
    backend = tokenizer._backend
    if tokenizer.kind == "sentencepiece":
        pieces = range(tokenizer.vocabulary_size)
        return {backend.id_to_piece(i): (ControlToken(i), True) for i in pieces if backend.is_control(i)}
    return {
        str(token.content): (
            ControlToken(int(i), bool(token.lstrip), bool(token.rstrip)),
            bool(token.special),
        )
        for i, token in sorted(backend.added_tokens_decoder.items())
        if token.content
    }


def name_special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Return what templates know the special tokens by: `bos_token`, `eos_token`, ..."""
    if tokenizer.kind == "huggingface":
        return {name: str(text) for name, text in tokenizer._backend.special_tokens_map.items()}
    backend = tokenizer._backend
    ids = {"bos_token": backend.bos_id(), "eos_token": backend.eos_id(), "unk_token": backend.unk_id()}
    return {name: backend.id_to_piece(i) for name, i in ids.items() if i >= 0}


@dataclass(frozen=True, slots=True)
class Marks:
    """Two characters that stand around control tokens which are only text."""

    first: str
    last: str

    @classmethod
    def absent_from(cls, texts: Iterable[str]) -> Marks:
        """Choose two characters that none of the texts holds."""
        used = {character for text in texts if not text.isascii() for character in text}
        code = _FIRST_MARK
        found: list[str] = []
        while len(found) < 2:
            if chr(code) not in used:
                found.append(chr(code))
            code += 1
        return cls(*found)

    def remove(self, text: str) -> str:
        """Return the text without the marks."""
        return text.replace(self.first, "").replace(self.last, "")


class ControlText:
    """Splits rendered conversations at the control tokens which the template wrote.

    Args:
        tokens: by their text.
        split: texts that the tokenizer would read as a token in any text, and which are therefore cut in two where
            they are only text.
    """

    def __init__(self, tokens: Mapping[str, ControlToken], split: frozenset[str] = frozenset()) -> None:
        self.tokens = dict(tokens)
        self.split_texts = split
        longest_first = sorted(map(re.escape, self.tokens), key=lambda text: (-len(text), text))
        self._expression = "|".join(longest_first) or "(?!)"
        self._tokens_re = re.compile(self._expression)
        self._scans: dict[Marks, re.Pattern[str]] = {}

    def mark(self, text: str, marks: Marks) -> str:
        """Return the text with marks around every control token spelled in it."""
        if not self._tokens_re.search(text):
            return text
        return self._tokens_re.sub(lambda match: f"{marks.first}{match[0]}{marks.last}", text)

    def find_first(self, text: str, marks: Marks, start: int) -> re.Match[str] | None:
        """Return the first control token that the template wrote at or after `start`, or None."""
        for match in self._scan(marks).finditer(text, start):
            if match["written"] is not None:
                return match
        return None

    def split(self, text: str, marks: Marks, turn: int | None = None) -> list[Piece]:
        """Return the pieces of a rendered text, without its marks.

        Args:
            text: rendered, with marks.
            marks: what stands around control tokens that are only text.
            turn: number of the turn whose target the text is, or None.
        """
        pieces: list[Piece] = []
        pending = ""
        place = 0
        for match in self._scan(marks).finditer(text):
            pending += text[place : match.start()]
            place = match.end()
            if match["written"] is not None:
                if pending:
                    pieces.append(Piece(pending, None, turn))
                pieces.append(Piece(match["written"], self.tokens[match["written"]].token_id, turn))
                pending = ""
            elif (spelled := match["spelled"]) is not None:
                if spelled in self.split_texts:
                    pieces.append(Piece(pending + spelled[:1], None, turn))
                    pending = spelled[1:]
                else:
                    pending += spelled
        pending += text[place:]
        return [*pieces, Piece(pending, None, turn)] if pending else pieces

    def strip_beside(self, pieces: list[Piece]) -> list[Piece]:
        """Return the pieces without the white space that tokens strip; an assistant's words keep theirs."""
        kept: list[Piece] = []
        for number, piece in enumerate(pieces):
            text = piece.text
            if piece.token_id is None and piece.turn is None:
                before = self.tokens.get(pieces[number - 1].text) if number else None
                after = self.tokens.get(pieces[number + 1].text) if number + 1 < len(pieces) else None
                if before and pieces[number - 1].token_id is not None and before.strips_right:
                    text = text.lstrip()
                if after and pieces[number + 1].token_id is not None and after.strips_left:
                    text = text.rstrip()
            if text:
                kept.append(piece if text == piece.text else Piece(text))
        return kept

    def _scan(self, marks: Marks) -> re.Pattern[str]:
        if marks not in self._scans:
            first, last = marks.first, marks.last
            self._scans[marks] = re.compile(
                f"{first}(?P<spelled>{self._expression}){last}|[{first}{last}]|(?P<written>{self._expression})"
            )
        return self._scans[marks]
