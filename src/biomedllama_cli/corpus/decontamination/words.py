"""Text as plain words: what case, punctuation and Unicode forms are folded away from."""

from __future__ import annotations

import codecs
import functools
import string
import unicodedata

_KEPT = (string.ascii_letters + string.digits).encode()
# Bytes from 0x80 on are letters of other scripts (Greek above all), already folded when they get here.
_FOLD_BYTES = bytes(
    ord(chr(byte).lower()) if byte in _KEPT else byte if byte >= 0x80 else ord(" ") for byte in range(256)
)


class _Folds(dict[str, bytes]):
    """What each character outside ASCII is folded to, worked out once."""

    def __missing__(self, character: str) -> bytes:
        folded = self[character] = _fold_character(character)
        return folded


def _fold_character(character: str) -> bytes:
    # Upper case first: it joins what lower case keeps apart (final sigma, dotless i, long s, sharp s).
    folded = character.upper().casefold()
    for _ in range(2):  # NFKD of a folded character may hold one that folds again
        folded = unicodedata.normalize("NFKD", folded).casefold()
    kept = []
    for part in folded:
        category = unicodedata.category(part)
        if category[0] == "M" or category == "Cf":  # accents, soft hyphens, joiners, direction marks
            continue
        # Modifier letters are apostrophes in practice.
        kept.append(part if part.isalnum() and category != "Lm" else " ")
    return "".join(kept).encode()


_FOLDS = _Folds()


def _fold_run(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    run = error.object[error.start : error.end]
    return b"".join([_FOLDS[character] for character in run]), error.end


# The encoder of ASCII visits exactly the characters that need folding and runs in C between them.
_HANDLER = "biomedllama_cli.fold"
codecs.register_error(_HANDLER, _fold_run)


def split_words(text: str) -> list[bytes]:
    r"""Return the words of a text: lower case, without accents; everything else separates words.

    Letters and digits of every script count, in compatibility form; each character is folded by itself, so
    composed and decomposed spellings, ligatures, full-width letters and curly quotes make no difference.

    >>> split_words("Na\u00efve T-cells\u2014\ufb01rst \u2265 3.5\u00a0\u00b5g/ml")
    [b'naive', b't', b'cells', b'first', b'3', b'5', b'\xce\xbcg', b'ml']
    """
    return text.encode("ascii", _HANDLER).translate(_FOLD_BYTES).split()


def close_words(text: str) -> str:
    """Return a text without the characters that separate words, white space apart.

    A copy that lost its punctuation reads `followup` and `35` where the original had `follow-up` and `3.5`.

    >>> close_words("follow-up at 3.5 years (n = 12)")
    'followup at 35 years n  12'
    """
    return "".join(character for character in text if not _separates(character))


@functools.lru_cache(maxsize=1 << 16)
def _separates(character: str) -> bool:
    return not character.isspace() and not split_words(character)


def decode_words(words: list[bytes]) -> str:
    """Return words as text, for reports."""
    return b" ".join(words).decode("utf-8", "replace")
