"""How much of an item a text holds, where a run of its words was found in it."""

from __future__ import annotations

import itertools

import numpy as np

from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex, Ids
from biomedllama_cli.corpus.decontamination.matching import measure_similarity
from biomedllama_cli.corpus.decontamination.words import split_words


def measure_share(index: BenchmarkIndex, number: int, text: str) -> float:
    """Return the largest share of a question or passage of an item that one place of a text holds in the same order.

    A run of 13 words says little about the rest: of a question in which every fifteenth word was changed it covers a
    tenth, and of one that shares a stock sentence as well. This share tells them apart.

    Args:
        index: what the item belongs to.
        number: of the item.
        text: in which a run of the item's words was found.
    """
    words = split_words(text)
    ids = np.fromiter(map(index.vocabulary.get, words, itertools.repeat(0)), np.uint32, len(words))
    units = np.flatnonzero(index.units.items == number).tolist()
    return max((_slide(index.units[unit], ids) for unit in units), default=0.0)


def _slide(words: Ids, ids: Ids) -> float:
    # As wide as where near-duplicates are compared: twice the width would find the common words of any two vignettes.
    slack = 2 + len(words) // 8
    length = len(words) + 2 * slack
    starts = range(0, max(1, len(ids) - length + slack), slack)
    return max(measure_similarity(words, ids[start : start + length]) for start in starts)
