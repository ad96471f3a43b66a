"""Texts as the terms they are found by."""

from __future__ import annotations

import re
import unicodedata

TERMS_VERSION = 1
"""Changes with what follows: an index made by other rules finds nothing."""
STEMMER = "english"
# The classic list of Lucene; longer ones found less (docs/decisions/0020-retrieval.md).
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be but by for if in into is it no not of on or such that the their then there these they
        this to was will with""",
    )
)
# Words that make a question of what is looked for. WHO, US and MAY are something else, so `who` and others stay.
_ASKING = frozenset(
    re.findall(
        r"\w+",
        """what which whom whose when where why how do does did can could should would has have had been were i me my we
        our you your please tell explain""",
    )
)
_WORDS = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_POSSESSIVE = re.compile(r"'s\b")
_ACCENTS = re.compile(r"[\u0300-\u036f]")
# Unicode spells the name of λ in its own way.
_GREEK = {letter: unicodedata.name(letter).split()[-1].lower() for letter in "αβγδεζηθικμνξοπρςστυφχψω"} | {
    "λ": "lambda"
}
_FOLDED = str.maketrans(
    {
        **_GREEK,
        **dict.fromkeys("\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FIGURE DASH}\N{EN DASH}\N{MINUS SIGN}", "-"),
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{SOFT HYPHEN}": None,
    }
)


def split_words(text: str) -> list[str]:
    """Return the words of a text in one spelling: without capitals, accents and stop words.

    Parts joined by a hyphen are one word, since IL-6 and TNF-α are; Greek letters have their names.

    >>> split_words("IL-6 and TNF-α in Sjögren’s syndrome"), split_words("IL6, TNF-alpha: Sjogren's")
    (['il6', 'tnfalpha', 'sjogren', 'syndrome'], ['il6', 'tnfalpha', 'sjogren'])
    """
    if not text.isascii():
        text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text)).lower().translate(_FOLDED)
    else:
        text = text.lower()
    if "'" in text:
        text = _POSSESSIVE.sub("", text)
    return [word.replace("-", "") for word in _WORDS.findall(text) if word not in _STOP_WORDS]


def split_question(text: str) -> list[str]:
    """Return the words of a question that are looked for: without those that only ask, unless there are no others.

    >>> split_question("Which organ makes insulin, and how does it do that?"), split_question("How do you do?")
    (['organ', 'makes', 'insulin'], ['how', 'do', 'you', 'do'])
    """
    words = split_words(text)
    return [word for word in words if word not in _ASKING] or words


class Stems:
    """Words without their endings, by Snowball's English stemmer."""

    def __init__(self) -> None:
        import Stemmer

        self._stemmer = Stemmer.Stemmer(STEMMER)

    def find(self, word: str) -> str:
        """Return the stem of a word.

        >>> Stems().find("mutations"), Stems().find("mutated")
        ('mutat', 'mutat')
        """
        return str(self._stemmer.stemWord(word))
