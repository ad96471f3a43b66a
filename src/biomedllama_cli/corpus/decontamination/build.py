"""Turn benchmark items into an index: which of their words are looked for, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from biomedllama_cli.corpus.decontamination.grams import (
    GramTable,
    Hashes,
    Numbers,
    build_table,
    hash_runs,
    hash_words,
)
from biomedllama_cli.corpus.decontamination.index import (
    QUESTION_WORDS,
    RUN_WORDS,
    BenchmarkIndex,
    Ids,
    Texts,
    Untestable,
    identify_items,
    list_pmids,
    save_index,
)
from biomedllama_cli.corpus.decontamination.items import BenchmarkItem, BenchmarkSource
from biomedllama_cli.corpus.decontamination.words import close_words, split_words

SEED_WORDS = 4
"""Words of a seed: with a tenth of its words changed, every text of 8 words and more keeps such a run."""
SKETCH_SEEDS = 64
"""Seeds kept of one unit: those with the smallest hashes, a bottom-k MinHash sketch (Broder 1997)."""
COMMON_TEXTS = 2
"""Four words in a row that stand in more texts of the benchmarks than this are common wording."""
COMMON_SEEDS = 3
"""A run of 13 words with so many common ones among its 10 seeds proves nothing ("which of the following is ...")."""
SEED_TEXTS = 16
"""Seeds in more texts than this start no closer look: it bounds the work on a text that repeats itself."""
NEEDED_SHARE = 0.25
"""Share of a unit's seeds that one place must hold before its words are compared. A tenth of the words changed
leaves at least a third of them: 15 words have 12 seeds, and two changed words touch 8."""


@dataclass
class _Collected:
    """Texts while they are collected."""

    vocabulary: dict[bytes, int] = field(default_factory=dict)
    units: list[Ids] = field(default_factory=list)
    unit_items: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # both readings of equal texts share a number
    whole: list[bool] = field(default_factory=list)
    answers: list[Ids] = field(default_factory=list)
    answer_items: list[int] = field(default_factory=list)
    untestable: list[Untestable] = field(default_factory=list)
    known_texts: dict[bytes, int] = field(default_factory=dict)

    def read(self, text: str) -> list[Ids]:
        """Return the words of a text cut at punctuation and, where that differs, closed over it."""
        readings = [split_words(text)]
        closed = split_words(close_words(text))
        if closed != readings[0]:
            readings.append(closed)
        number = self.vocabulary.setdefault
        return [
            np.array([number(word, len(self.vocabulary) + 1) for word in words], np.uint32)
            for words in readings
        ]

    def add_unit(self, item: int, readings: list[Ids], *, whole: bool) -> None:
        """Look for a text."""
        group = self.known_texts.setdefault(readings[0].tobytes(), len(self.known_texts))
        readings = [words for words in readings if len(words) >= SEED_WORDS]
        self.units += readings
        self.unit_items += [item] * len(readings)
        self.groups += [group] * len(readings)
        self.whole += [whole] * len(readings)


def build_index(
    items: Sequence[BenchmarkItem], sources: Sequence[BenchmarkSource], folder: Path | None = None
) -> BenchmarkIndex:
    """Return the index of some items, written to `folder` where one is given.

    A question or passage of 13 words and more is looked for by its runs of 13 words. A question of 8 to 12
    words counts as a whole, beside its answer; so does a longer one all of whose runs are common wording.
    PubMedQA's own question is the title of an article, which others cite: its passages are looked for instead.
    """
    collected = _Collected()
    for number, item in enumerate(items):
        if item.passages:
            _add_passages(collected, number, item)
        else:
            _add_question(collected, number, item)
    hashed = [hash_words(unit) for unit in collected.units]
    seeds = _list_runs(hashed, SEED_WORDS)
    texts = _count_texts(seeds[0], np.array(collected.groups, np.int64)[seeds[1]])
    runs = _build_runs(collected, hashed, texts)
    sketches, needs = _build_seeds(seeds, texts, len(hashed))
    index = BenchmarkIndex(
        items=tuple(items),
        sources=tuple(sources),
        untestable=tuple(_list_untestable(collected, items)),
        sha256=identify_items(items, sources),
        pmids=list_pmids(items),
        vocabulary=collected.vocabulary,
        units=_join_texts(collected.units, collected.unit_items),
        whole=np.array(collected.whole, np.bool_),
        needs=needs,
        answers=_join_texts(collected.answers, collected.answer_items),
        runs=runs,
        seeds=sketches,
    )
    if folder is not None:
        save_index(index, folder)
    return index


def _add_passages(collected: _Collected, number: int, item: BenchmarkItem) -> None:
    long = [readings for readings in map(collected.read, item.passages) if len(readings[0]) >= RUN_WORDS]
    for readings in long:
        collected.add_unit(number, readings, whole=False)
    if not long and item.pmid is None:
        collected.untestable.append(Untestable(number, "no_pmid_and_no_passage_of_13_words"))


def _add_question(collected: _Collected, number: int, item: BenchmarkItem) -> None:
    readings = collected.read(item.question)
    if len(readings[0]) < QUESTION_WORDS:
        collected.untestable.append(Untestable(number, "question_under_8_words"))
        return
    answers = [answer for answer in collected.read(item.answer) if len(answer)]
    whole = len(readings[0]) < RUN_WORDS
    if whole and not answers:
        collected.untestable.append(Untestable(number, "question_under_13_words_and_answer_without_words"))
        return
    collected.add_unit(number, readings, whole=whole)
    collected.answers += answers
    collected.answer_items += [number] * len(answers)


def _build_runs(collected: _Collected, hashed: list[Hashes], texts: Numbers) -> GramTable:
    """Return the table of 13-word runs; texts that have only common ones count as a whole from now on.

    Args:
        collected: the units.
        hashed: their words' values.
        texts: for every seed of every unit, in order, how many texts hold it.
    """
    hashes, units, offsets = _list_runs(hashed, RUN_WORDS)
    seeds = np.array([max(len(values) - SEED_WORDS + 1, 0) for values in hashed], np.int64)
    first = (np.cumsum(seeds) - seeds)[units] + offsets
    common = np.append(0, np.cumsum(texts > COMMON_TEXTS))
    common_seeds = common[first + RUN_WORDS - SEED_WORDS + 1] - common[first]
    tested = ~np.array(collected.whole, np.bool_)
    kept = tested[units] & (common_seeds < COMMON_SEEDS)
    distinctive = {collected.groups[unit] for unit in np.unique(units[kept]).tolist()}
    for unit in np.flatnonzero(tested).tolist():
        collected.whole[unit] = collected.groups[unit] not in distinctive
    return build_table(RUN_WORDS, hashes[kept], units[kept], offsets[kept])


def _list_untestable(collected: _Collected, items: Sequence[BenchmarkItem]) -> list[Untestable]:
    """Add those none of whose texts can be told from common wording."""
    testable = set(collected.answer_items)
    testable |= {item for item, whole in zip(collected.unit_items, collected.whole, strict=True) if not whole}
    listed = {untestable.item for untestable in collected.untestable}
    dull = [
        Untestable(number, "only_wording_that_many_items_share")
        for number, item in enumerate(items)
        if number not in testable | listed and item.pmid is None
    ]
    return sorted([*collected.untestable, *dull], key=lambda untestable: untestable.item)


def _build_seeds(
    seeds: tuple[Hashes, Numbers, Numbers], texts: Numbers, count: int
) -> tuple[GramTable, Numbers]:
    """Return the table of each unit's sketch, and how many seeds of it a place must hold."""
    hashes, units, offsets = seeds
    common = texts > SEED_TEXTS
    # The first occurrence of each seed in its unit, the rare ones first and then by hash.
    order = np.lexsort((offsets, hashes, common, units))
    hashes, units, offsets, common = hashes[order], units[order], offsets[order], common[order]
    first = np.ones(len(units), np.bool_)
    first[1:] = (units[1:] != units[:-1]) | (hashes[1:] != hashes[:-1])
    hashes, units, offsets, common = hashes[first], units[first], offsets[first], common[first]
    rank = np.arange(len(units)) - np.searchsorted(units, units)
    # A unit made of common wording alone keeps one seed, or it would not be found verbatim.
    kept = (rank < SKETCH_SEEDS) & (~common | (rank == 0))
    sizes = np.bincount(units[kept], minlength=count)
    needs = np.maximum(1, np.ceil(sizes * NEEDED_SHARE)).astype(np.int64)
    return build_table(SEED_WORDS, hashes[kept], units[kept], offsets[kept]), needs


def _list_runs(hashed: list[Hashes], words: int) -> tuple[Hashes, Numbers, Numbers]:
    """Return hash, unit and offset of every run of some units."""
    each = [hash_runs(values, words) for values in hashed]
    counts = np.array([len(hashes) for hashes in each], np.int64)
    units = np.repeat(np.arange(len(each), dtype=np.int64), counts)
    offsets = np.arange(len(units), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.concatenate([np.zeros(0, np.uint64), *each]), units, offsets


def _count_texts(hashes: Hashes, groups: Numbers) -> Numbers:
    """Return for each run in how many different texts it stands.

    >>> _count_texts(np.array([7, 8, 7, 7], np.uint64), np.array([0, 0, 0, 1])).tolist()
    [2, 1, 2, 2]
    """
    order = np.lexsort((groups, hashes))
    keys, texts = hashes[order], groups[order]
    distinct = np.ones(len(keys), np.bool_)
    distinct[1:] = (keys[1:] != keys[:-1]) | (texts[1:] != texts[:-1])
    unique, counts = np.unique(keys[distinct], return_counts=True)
    return counts[np.searchsorted(unique, hashes)].astype(np.int64)


def _join_texts(texts: list[Ids], items: list[int]) -> Texts:
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(words) for words in texts], out=starts[1:])
    return Texts(np.concatenate([np.zeros(0, np.uint32), *texts]), starts, np.array(items, np.int64))
