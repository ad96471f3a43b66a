"""Where a text names an option: normalised words with their places, letters, and the options' own texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

GENERIC = frozenset({"yes", "no", "maybe", "none", "all", "both", "neither", "true", "false", "normal"})
"""Option texts that are everyday words: they count only where they stand alone."""

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi",
    "χ": "chi", "ψ": "psi", "ω": "omega",
}  # fmt: skip
_SPELLED = str.maketrans(
    dict.fromkeys("‐‑‒–—―−", "-")
    | dict.fromkeys("“”„«»", '"')
    | dict.fromkeys("‘’ʼ", "'")
    | _GREEK
    | {letter.upper(): name.capitalize() for letter, name in _GREEK.items()}
)
# Numbers keep their decimals; signs that tell options apart are words of their own.
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[+<>≤≥=%↑↓→←±°]|(?<!\w)-(?=\d)")
_EDGE = re.compile(r"[^\w\s'-]|\s{2,}|\n")


@dataclass(frozen=True, slots=True)
class Word:
    """A casefolded word and its place in the normalised text."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Mention:
    """A place where a text names options (several where their texts are the same)."""

    options: frozenset[int]
    start: int
    end: int


def normalize(text: str) -> str:
    """Return text with plain dashes and quotes, Greek letters spelled, full-width forms and accents made plain.

    >>> normalize("（Ａ） β–blocker, Guillain‑Barré ½")
    '(A) beta-blocker, Guillain-Barre 1⁄2'
    """
    if text.isascii():
        return text
    composed = unicodedata.normalize("NFKC", text).translate(_SPELLED)
    decomposed = unicodedata.normalize("NFD", composed)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


@lru_cache(maxsize=64)  # one text is read from many places
def find_words(text: str) -> tuple[Word, ...]:
    """Return the words of a normalised text.

    >>> [word.text for word in find_words("Give 0.5mg (1,000 IU), not >10 %")]
    ['give', '0.5', 'mg', '1000', 'iu', 'not', '>', '10', '%']
    """
    return tuple(
        Word(match[0].casefold().replace(",", ""), match.start(), match.end())
        for match in _WORD.finditer(text)
    )


class OptionTexts:
    """The options of one question, ready to be found in texts.

    Args:
        options: their texts in order; option 0 has the letter A.
    """

    def __init__(self, options: Sequence[str]) -> None:
        self.count = len(options)
        self.words = [tuple(word.text for word in find_words(normalize(option))) for option in options]
        self.joined = ["".join(words) for words in self.words]
        self.by_first_word: dict[str, list[int]] = {}
        for index, words in enumerate(self.words):
            if words:
                self.by_first_word.setdefault(words[0], []).append(index)
        self.of_labels = bool(options) and {option.casefold() for option in options} <= {"yes", "no", "maybe"}

    def letter_index(self, letter: str) -> int | None:
        """Return the option a letter stands for, None beyond the last or where options are yes, no, maybe."""
        index = ord(letter.upper()) - ord("A")
        return index if index < self.count and not self.of_labels else None

    def find_equal(self, text: str) -> frozenset[int]:
        """Return the options whose text is this one but for case, punctuation and spaces; a letter is none."""
        joined = "".join(word.text for word in find_words(text))
        if len(joined) < 2 and not joined.isdigit():
            return frozenset()
        return frozenset(i for i, option in enumerate(self.joined) if option == joined)

    def match_at(self, words: Sequence[Word], first: int) -> Mention | None:
        """Return the longest option that starts with the word number `first`, or None."""
        best = 0
        options: set[int] = set()
        for index in self.by_first_word.get(words[first].text, ()):
            option = self.words[index]
            if tuple(word.text for word in words[first : first + len(option)]) == option:
                if len(option) > best:
                    best, options = len(option), set()
                if len(option) == best:
                    options.add(index)
        if not options:
            return None
        return Mention(frozenset(options), words[first].start, words[first + best - 1].end)

    def find_mentions(self, text: str) -> list[Mention]:
        """Return the options a normalised text names, leaving out those inside a longer one.

        Short and everyday ones count only between punctuation or ends.
        """
        words = find_words(text)
        mentions: list[Mention] = []
        for first in range(len(words)):
            mention = self.match_at(words, first)
            if mention is None or (mentions and mention.end <= mentions[-1].end):
                continue
            if self._is_everyday(mention) and not _stands_alone(text, mention):
                continue
            if mentions and mention.start < mentions[-1].end:
                continue
            mentions.append(mention)
        return mentions

    def _is_everyday(self, mention: Mention) -> bool:
        words = self.words[min(mention.options)]
        return len(words) == 1 and (words[0] in GENERIC or len(words[0]) <= 2 or words[0][0].isdigit())


def _stands_alone(text: str, mention: Mention) -> bool:
    before, after = text[: mention.start].rstrip(" "), text[mention.end :].lstrip(" ")
    return (not before or bool(_EDGE.match(before[-1]))) and (not after or bool(_EDGE.match(after[0])))


@lru_cache(maxsize=16)  # all chains of a question come together
def prepare_options(options: tuple[str, ...]) -> OptionTexts:
    """Return the options of one question, ready to be found in texts."""
    return OptionTexts(options)
