"""Published rules that tell prose from what is left of pages: lists, fragments, repetitions.

Most are of Gopher (Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
arXiv:2112.11446, appendix A.1.1 and table A1), one is of C4 (Raffel et al. 2020, "Exploring the Limits of Transfer
Learning", JMLR 21:140, section 2.2); where a number differs from theirs, its line says why.
docs/decisions/0011-filters.md says which were not taken, and how many good documents the rest costs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from biomedllama_cli.corpus.filters.repetition import find_repetition
from biomedllama_cli.corpus.filters.words import Words, count_words

Kind = Literal["abstract", "article"]

_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))  # Gopher, A.1.1
_BULLETS = ("•", "-", "‣", "◦")
_ELLIPSES = ("...", "…")
_ROW_CHARACTERS = 200  # a longer line of few letters is no row but a fault of the document
_PLACEHOLDER = re.compile("lorem ipsum", re.IGNORECASE)


@dataclass(frozen=True)
class Rules:
    """The numbers of the rules."""

    least_words: int
    """Gopher: 50. Its other end, 100,000 words, is not taken: a book of proceedings is longer."""
    word_length: tuple[float, float] = (3.0, 10.0)
    """Mean characters per word. Gopher."""
    most_symbols: float = 0.1
    """`#` or ellipses per word. Gopher."""
    most_bullet_lines: float = 0.9
    """Lines that begin with a bullet. Gopher."""
    most_ellipsis_lines: float = 0.3
    """Lines that end with an ellipsis. Gopher."""
    least_lettered: float = 0.7
    """Words that hold a letter. Gopher: 0.8; results with many numbers go down to 0.77."""
    least_stop_words: int = 2
    """How many of eight English stop words must occur. Gopher."""


RULES: dict[Kind, Rules] = {
    # Abstracts of case reports can be short, and some journals set the parts of an abstract as bullets.
    "abstract": Rules(least_words=20, most_bullet_lines=1.0),
    "article": Rules(least_words=50),
}


class QualityFilter:
    """Tell documents that read like prose from others.

    Lines that are rows of tables are not looked at: an article is judged by its sentences.

    Args:
        kind: what the documents are.
        languages: the languages they may be in; the rule of stop words is one of English.
    """

    def __init__(self, kind: Kind, languages: tuple[str, ...] = ("en",)) -> None:
        self.kind, self.rules = kind, RULES[kind]
        self.stop_words = _STOP_WORDS if set(languages) == {"en"} else frozenset()

    def find_problem(self, text: str) -> str | None:
        """Return the first rule a document breaks, as a reason to count, or None."""
        prose = text if self.kind == "abstract" else remove_table_rows(text)
        lines = [line for line in map(str.strip, prose.split("\n")) if line]
        words = count_words(prose)
        problem = self._judge_words(words) or self._judge_lines(prose, lines, len(words))
        return problem or find_repetition(prose, lines, words)

    def _judge_words(self, words: Words) -> str | None:
        rules = self.rules
        if len(words) < max(rules.least_words, 1):
            return "quality_too_short"
        counts = np.bincount(words.numbers)
        shortest, longest = rules.word_length
        if not shortest <= (counts @ words.lengths) / len(words) <= longest:
            return "quality_word_length"
        lettered = np.fromiter(map(_has_letter, words.distinct), np.bool_, len(words.distinct))
        if counts @ lettered < rules.least_lettered * len(words):
            return "quality_few_letters"
        if self.stop_words and len(self.stop_words.intersection(words.distinct)) < rules.least_stop_words:
            return "quality_few_stop_words"
        return None

    def _judge_lines(self, prose: str, lines: list[str], words: int) -> str | None:
        rules = self.rules
        if max(prose.count("#"), prose.count("...") + prose.count("…")) > rules.most_symbols * words:
            return "quality_symbols"
        if sum(line.startswith(_BULLETS) for line in lines) > rules.most_bullet_lines * len(lines):
            return "quality_bullets"
        if sum(line.endswith(_ELLIPSES) for line in lines) > rules.most_ellipsis_lines * len(lines):
            return "quality_ellipses"
        return "quality_placeholder" if _PLACEHOLDER.search(prose) else None


def remove_table_rows(text: str) -> str:
    r"""Return a text without the lines that are rows of a table: cells between bars or tabs, or hardly any letters.

    >>> remove_table_rows("Age | Dose\n34.5 (2.1) 17 %\nOf 40 patients, 3 died.")
    'Of 40 patients, 3 died.'
    """
    return "\n".join(line for line in text.split("\n") if not _is_table_row(line))


def _is_table_row(line: str) -> bool:
    line = line.strip()
    if "|" in line or "\t" in line:
        return True
    return bool(line) and len(line) < _ROW_CHARACTERS and sum(map(str.isalpha, line)) < len(line) / 2


def _has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))
