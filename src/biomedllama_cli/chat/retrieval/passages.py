"""Documents cut into passages."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

Span = tuple[int, int]
"""First character and the one after the last."""

# Text without spaces counts a word for every forty characters, or a passage of it would have no end.
_WORDS = re.compile(r"\S{1,40}")
_PARAGRAPH_ENDS = re.compile(r"\S\s*\n")
# No sentence ends behind an initial or one of these abbreviations.
_SENTENCE_ENDS = re.compile(
    r"(?<!\b[A-Z]\.)(?<!\bal\.)(?<!\bvs\.)(?<!\b[Ff]ig\.)(?<!\b[Ee]\.g\.)(?<!\b[Ii]\.e\.)(?<=[.!?])"
    r"[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])"
)


def cut_passages(text: str, longest: int) -> list[Span]:
    """Return where the passages of a text lie: as few as fit, of about the same length.

    They end at paragraphs where one ends near, else at sentences, else between words. What no passage holds is white
    space. A text without words is one passage.

    Args:
        text: of a document.
        longest: most words of a passage (in words, those between spaces).

    >>> text = "Cress was sown. It grew. Then it was cut and weighed."
    >>> [text[start:end] for start, end in cut_passages(text, 6)]
    ['Cress was sown. It grew.', 'Then it was cut and weighed.']
    """
    spans = [match.span() for match in _WORDS.finditer(text)]
    if len(spans) <= longest:
        return [(spans[0][0], spans[-1][1])] if spans else [(0, len(text))]
    starts = [start for start, _ in spans]
    # As numbers of the words that follow: what a passage may end before.
    paragraphs = [bisect_left(starts, match.end()) for match in _PARAGRAPH_ENDS.finditer(text)]
    sentences = [bisect_left(starts, match.end()) for match in _SENTENCE_ENDS.finditer(text)]
    passages: list[Span] = []
    first = 0
    while first < len(spans):
        end = _choose_end(first, len(spans), longest, (paragraphs, sentences))
        passages.append((spans[first][0], spans[end - 1][1]))
        first = end
    return passages


def _choose_end(first: int, words: int, longest: int, ends: tuple[list[int], list[int]]) -> int:
    """Return the number of the word that the passage beginning with word `first` ends before."""
    remaining = words - first
    if remaining <= longest:
        return words
    pieces = -(-remaining // longest)
    target = first + -(-remaining // pieces)
    # A paragraph's end may lie further from the middle of the way than a sentence's.
    for possible, reach in zip(ends, (longest // 4, longest // 2), strict=True):
        low = bisect_left(possible, max(target - reach, first + 1))
        high = bisect_right(possible, min(target + reach, first + longest))
        if low < high:
            return min(possible[low:high], key=lambda end: (abs(end - target), end))
    return first + min(longest, remaining)
