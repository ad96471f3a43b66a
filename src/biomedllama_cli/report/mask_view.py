"""Rows of tokens on a terminal, so that anybody sees what is learnt of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from rich.text import Text

from biomedllama_cli.instructions.encoding import EncodedExample, EncodedSet
from biomedllama_cli.models.control_tokens import list_control_tokens
from biomedllama_cli.models.pieces import build_piece_encoder
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.report.tables import show_controls

TRAINED_STYLE = "bold green"
CONTROL_STYLE = "magenta"
FIRST_MARK, LAST_MARK = "[[", "]]"
"""Stand around what is trained, so that it shows without colour."""


def show_masks(encoded: EncodedSet, tokenizer: Tokenizer, numbers: Iterable[int]) -> list[Text]:
    """Return rows of a set, text below text, the trained tokens coloured and in double brackets.

    Nothing in the data steers the terminal: controls show as escapes, and markup as it is.

    Args:
        encoded: rows.
        tokenizer: that they were encoded with.
        numbers: of the rows that are shown, in this order.
    """
    names = _name_controls(tokenizer)
    shown = []
    for number in numbers:
        row = encoded.row(number)
        shown.append(_head(encoded.sources[number], encoded.ids[number], row))
        shown.append(_body(row, tokenizer, names))
        shown.append(Text())
    legend = Text.assemble(
        ("Trained tokens", TRAINED_STYLE),
        f" stand in {FIRST_MARK} {LAST_MARK}, ",
        ("control tokens", CONTROL_STYLE),
        " in { }.",
    )
    return [*shown, legend]


def decode_trained(row: EncodedExample, tokenizer: Tokenizer) -> str:
    """Return the text of a row's trained tokens, control tokens by their names: answers and what ends them."""
    names = _name_controls(tokenizer)
    decode = build_piece_encoder(tokenizer).decode_continuation
    trained = [token_id for token_id, is_target in zip(row.token_ids, row.trained, strict=True) if is_target]
    return "".join(
        "".join(map(names.__getitem__, part)) if is_control else decode(list(part))
        for is_control, part in groupby(trained, key=names.__contains__)
    )


def _name_controls(tokenizer: Tokenizer) -> dict[int, str]:
    return {token.token_id: text for text, (token, _) in list_control_tokens(tokenizer).items()}


def _head(source: str, id: str, row: EncodedExample) -> Text:
    parts = [f"{len(row.token_ids):,} tokens", f"{sum(row.trained):,} trained"]
    if row.cut_tokens:
        parts.append(f"{row.cut_tokens:,} cut")
    return Text(f"{show_controls(source)} {show_controls(id)}: {', '.join(parts)}", style="bold")


def _body(row: EncodedExample, tokenizer: Tokenizer, names: Mapping[int, str]) -> Text:
    body = Text(overflow="fold")
    # A prompt's text begins a text of its own, an answer continues one.
    decode = {True: build_piece_encoder(tokenizer).decode_continuation, False: tokenizer.decode}
    pairs = zip(row.token_ids, row.trained, strict=True)
    for trained, run in groupby(pairs, key=lambda pair: pair[1]):
        style = TRAINED_STYLE if trained else ""
        body.append(FIRST_MARK if trained else "", style=style)
        for is_control, part in groupby((token_id for token_id, _ in run), key=names.__contains__):
            ids = list(part)
            if is_control:
                shown = "".join("{" + names[token_id] + "}" for token_id in ids)
                body.append(escape_controls(shown), style=f"{style} {CONTROL_STYLE}".strip())
            else:
                body.append(escape_controls(decode[trained](ids)), style=style)
        body.append(LAST_MARK if trained else "", style=style)
    return body


def escape_controls(text: str) -> str:
    r"""Return text that no terminal takes for a command; line ends stay, and show as such.

    >>> escape_controls("a\tb\x1b[31m\n")
    'a\\tb\\x1b[31m\n'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
