"""Repetition inside a document: the rules of Gopher's table A1 (Rae et al. 2021, arXiv:2112.11446) for scientific text.

The table was made for web pages. Science repeats its terms ("glucose-6-phosphate dehydrogenase deficiency") and its
headings, so that a few percent of sound articles break it; what differs from it here says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.filters.words import Words, find_repeats, iter_runs, occurs_times

DUPLICATE_PIECES, DUPLICATE_CHARACTERS = 0.30, 0.20
"""Share of the lines or paragraphs, and of their characters, that occurred before. As in the table."""
SHORT_PIECE = 30
"""Lines of at most so many characters are headings and labels and may repeat (FineWeb's short line)."""
TOP_RUNS = {2: 0.20, 3: 0.18, 4: 0.16}
"""Share of the characters that the most frequent run of so many words may hold. As in the table."""
TOP_RUN_TIMES = 3
"""A run must occur so often to count as frequent: the title's phrase comes back once in every short abstract."""
DUPLICATE_RUNS = {5: 0.30, 6: 0.28, 7: 0.26, 8: 0.24, 9: 0.22, 10: 0.20}
"""Share of the characters that lie in runs of so many words that occurred before: twice the table's."""

_PARAGRAPH_END = re.compile(r"\n{2,}")


def find_repetition(text: str, lines: list[str], words: Words) -> str | None:
    """Return which rule a document breaks, as a reason to count, or None.

    Args:
        text: the document.
        lines: its lines without surrounding whitespace.
        words: its words.
    """
    if _repeats(lines):
        return "quality_repeated_lines"
    if "\n\n" in text and _repeats(_PARAGRAPH_END.split(text)):
        return "quality_repeated_paragraphs"
    runs = iter_runs(words.numbers, max(DUPLICATE_RUNS))
    if _has_frequent_run(words, runs):
        return "quality_frequent_phrase"
    if _has_repeated_runs(words, runs):
        return "quality_repeated_phrases"
    return None


def _repeats(pieces: list[str]) -> bool:
    """Tell whether too many pieces, or pieces with too many characters, occurred before."""
    if len(set(pieces)) == len(pieces):
        return False
    first: set[str] = set()
    count = repeated = characters = repeated_characters = 0
    for piece in pieces:
        if len(piece) <= SHORT_PIECE:
            continue
        count += 1
        characters += len(piece)
        if piece in first:
            repeated += 1
            repeated_characters += len(piece)
        first.add(piece)
    return repeated > DUPLICATE_PIECES * count or repeated_characters > DUPLICATE_CHARACTERS * characters


def _has_frequent_run(words: Words, runs: Iterator[npt.NDArray[np.uint64]]) -> bool:
    """Look at runs of 2, 3 and 4 words."""
    lengths = words.lengths[words.numbers]
    ends = np.concatenate(([0], np.cumsum(lengths)))
    # A run occurs at most as often as each of its words: n times the heaviest word bounds its characters.
    heaviest = int((np.bincount(words.numbers) * words.lengths).max())
    for (n, most), hashes in zip(TOP_RUNS.items(), runs, strict=False):
        if n * heaviest <= most * ends[-1] or not occurs_times(hashes, TOP_RUN_TIMES):
            continue
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        characters = ((ends[first + n] - ends[first]) * counts)[counts >= TOP_RUN_TIMES]
        if characters.max() > most * ends[-1]:
            return True
    return False


def _has_repeated_runs(words: Words, runs: Iterator[npt.NDArray[np.uint64]]) -> bool:
    """Look at runs of 5 to 10 words."""
    lengths = words.lengths[words.numbers]
    characters = int(lengths.sum())
    for (n, most), hashes in zip(DUPLICATE_RUNS.items(), runs, strict=False):
        if not occurs_times(hashes, 2):
            return False
        covered = int(lengths[cover(find_repeats(hashes), n)].sum())
        if covered > most * characters:
            return True
        # What a longer repeated run covers, the shorter ones inside of it cover too.
        if covered <= min(DUPLICATE_RUNS.values()) * characters:
            return False
    return False


def cover(starts: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.bool_]:
    """Tell which words lie in one of the runs of `n` words that begin at the given places.

    >>> cover(np.array([False, True, False]), 2).tolist()
    [False, True, True, False]
    """
    change = np.zeros(len(starts) + n, np.int64)
    change[: len(starts)] += starts
    change[n:] -= starts
    covered: npt.NDArray[np.bool_] = np.cumsum(change[:-1]) > 0
    return covered
