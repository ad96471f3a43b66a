"""Cuts of a long text that do not change its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_SPACES = " \u2581"


def merges_stay_in_words(pieces: Iterable[str]) -> bool:
    r"""Tell whether no piece has a space mark after another character, so that no token crosses a word start.

    >>> merges_stay_in_words(["\u2581a", "\u2581\u2581", "b"]), merges_stay_in_words(["a\u2581b"])
    (True, False)
    """
    return all("\u2581" not in piece.lstrip("\u2581") for piece in pieces)


def iter_cuts(text: str, length: int) -> Iterator[str]:
    """Yield parts of about `length` characters whose tokens, one after the other, are those of the text.

    A part ends before a single space, and that space is left out: SentencePiece puts one before every text it
    is given. SentencePiece needs about 50 bytes per character, so a giant document must not go in whole.

    >>> list(iter_cuts("aa bb  cc dd", 4))
    ['aa bb  cc', 'dd']
    """
    start = 0
    while len(text) - start > length:
        cut = text.find(" ", start + length)
        while cut != -1 and (text[cut - 1] in _SPACES or text[cut + 1 : cut + 2] in (*_SPACES, "")):
            cut = text.find(" ", cut + 1)
        if cut == -1:
            break
        yield text[start:cut]
        start = cut + 1
    yield text[start:]
