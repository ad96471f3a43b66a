"""MinHash signatures of documents: how alike two texts are, in 260 bytes each.

A document is the set of its word 5-grams. Words are what is left of a text in lower case without punctuation and
diacritics, in compatibility form (NFKD); an ideograph is a word of its own. The sketch is rensa's R-MinHash
(Fast Similarity Sketching, Dahlgaard, Knudsen and Thorup 2017, arXiv:1704.04370), of which the lowest 16 bits of
each minimum are kept: two unequal minima agree by chance once in 65,536 (b-bit minwise hashing, Li and Koenig 2010).
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

PERMUTATIONS = 128
WORDS_PER_SHINGLE = 5

SIGNATURE = np.dtype([("shingles", "<u4"), ("minima", "<u2", (PERMUTATIONS,))])
"""One row per document: its shingles, repeated ones counted (0: too short to compare), and its minima."""

_SEED = 2026
# Multipliers of the words of a shingle: odd constants of SplitMix64 and xxHash.
_MULTIPLIERS = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
)
_BATCH = 64  # documents at once: rensa starts threads from some 256 on, and threads do not survive a fork
_PIECE_CHARACTERS = 1 << 20
_REMEMBERED_WORDS = 1 << 17  # some 25 MB
_REMEMBERED_LENGTH = 32  # of a word (in bytes), of a run of characters beyond ASCII
_MOST = 2**32 - 1
_FIRST_IDEOGRAPHIC = "⺀"  # U+2E80, CJK radicals: scripts from here on mostly write no spaces

_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
_SEPARATE = bytes(
    code | 32 if 65 <= code <= 90 else code if code >= 128 or chr(code).isalnum() else 32
    for code in range(256)
)
"""Lower case for ASCII, a space for what is neither letter nor digit; UTF-8's other bytes stay."""


def split_words(text: str) -> list[bytes]:
    r"""Return the words that are compared, as UTF-8.

    >>> b" ".join(split_words("TGF-β1\u00a0(naïve, 5 µM): “ﬁbrosis”")).decode()
    'tgf β1 naive 5 μm fibrosis'
    """
    if not text.isascii():
        text = _BEYOND_ASCII.sub(_fold_match, text)
    return text.encode().translate(_SEPARATE).split()


def _fold_match(match: re.Match[str]) -> str:
    run = match.group()
    return _fold_short(run) if len(run) <= _REMEMBERED_LENGTH else _fold(run)


def _fold(text: str) -> str:
    """Return text without case, diacritics and compatibility forms; letters and digits, and spaces between."""
    return "".join(map(_keep_character, unicodedata.normalize("NFKD", text).casefold()))


_fold_short = functools.lru_cache(1 << 14)(_fold)


def _keep_character(character: str) -> str:
    if character.isalnum():
        return f" {character} " if character >= _FIRST_IDEOGRAPHIC and character.isalpha() else character
    # Marks and invisible characters (soft hyphen, joiners) belong to their word; all else ends it.
    return "" if unicodedata.category(character) in {"Mn", "Mc", "Me", "Cf"} else " "


def estimate_jaccard(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the estimated share of common shingles of rows of SIGNATURE, pair by pair.

    The standard error is at most sqrt(J (1 - J) / 128): 0.032 at J = 0.85, 0.043 at J = 0.6.
    """
    equal: npt.NDArray[np.float64] = (one["minima"] == other["minima"]).mean(axis=-1)
    return equal


class _WordHashes(dict[bytes, int]):
    """64-bit hashes of words, computed once each as long as they are remembered."""

    def __missing__(self, word: bytes) -> int:
        value = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
        if len(word) <= _REMEMBERED_LENGTH:
            if len(self) >= _REMEMBERED_WORDS:
                self.clear()
            self[word] = value
        return value


class Signer:
    """Compute signatures; the same text has the same one in every process and on every machine."""

    def __init__(self) -> None:
        self._hashes = _WordHashes()

    def sign(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        """Return a row of SIGNATURE for each text; memory is that of a few texts at a time."""
        rows = np.zeros(len(texts), SIGNATURE)
        for start in range(0, len(texts), _BATCH):
            shingles = [self._hash_shingles(text) for text in texts[start : start + _BATCH]]
            here = rows[start : start + _BATCH]
            here["shingles"] = [min(len(hashes), _MOST) for hashes in shingles]
            present = here["shingles"] > 0
            here["minima"][present] = _sketch([hashes for hashes in shingles if len(hashes)])
        return rows

    def identify(self) -> dict[str, Any]:
        """Return what a signature depends on: signatures that differ in it must not be compared."""
        import rensa

        return {
            "sketch": "rensa R-MinHash",
            "algorithm_version": rensa.RMinHash.ALGORITHM_VERSION,
            "permutations": PERMUTATIONS,
            "words_per_shingle": WORDS_PER_SHINGLE,
            "seed": _SEED,
        }

    def _hash_shingles(self, text: str) -> npt.NDArray[np.uint64]:
        parts = []
        for piece in _iter_pieces(text):
            words = split_words(piece)
            parts.append(np.fromiter(map(self._hashes.__getitem__, words), np.uint64, len(words)))
        hashes = np.concatenate(parts)
        count = max(len(hashes) - WORDS_PER_SHINGLE + 1, 0)
        shingles = np.zeros(count, np.uint64)
        for offset, multiplier in enumerate(_MULTIPLIERS):
            shingles += hashes[offset : offset + count] * np.uint64(multiplier)
        return shingles


def _iter_pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces that end before a space: a list of words takes ten times the memory of the text."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = text.find(" ", start + _PIECE_CHARACTERS)
        if end < 0:
            break
        yield text[start:end]
        start = end
    yield text[start:]


def _sketch(shingles: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint16]:
    """Return the minima of sets of hashed shingles, none of them empty."""
    import rensa

    if not shingles:
        return np.zeros((0, PERMUTATIONS), np.uint16)
    matrix = rensa.RMinHash.digest_matrix_from_token_hash_sets(shingles, PERMUTATIONS, _SEED)
    minima: npt.NDArray[np.uint16] = np.array(matrix.to_rows(), np.uint32).astype(np.uint16)  # the low half
    return minima
