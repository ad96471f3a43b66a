"""Find items too short or too common in wording to be told from running text, where all of them is copied.

A five-word question proves nothing in a paper. In a data set of questions it does, beside its options: then it is the
same item, whatever the order of the options, case, spaces and punctuation.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from biomedllama_cli.corpus.decontamination.grams import GramTable, build_table, hash_runs, hash_words
from biomedllama_cli.corpus.decontamination.index import QUESTION_WORDS, BenchmarkIndex
from biomedllama_cli.corpus.decontamination.items import BenchmarkItem
from biomedllama_cli.corpus.decontamination.matching import (
    ANSWER_DISTANCE,
    EVIDENCE_WORDS,
    NEAR_SHARE,
    Overlap,
    build_overlap,
)
from biomedllama_cli.corpus.decontamination.words import decode_words, split_words

_BATCH_CHARACTERS = 1 << 20
_LEAST_OPTIONS = 2


@dataclass(frozen=True)
class _Wanted:
    """One item.

    Attributes:
        item: its number.
        question: the words of its question.
        options: its options, each as words between spaces; `NEAR_SHARE` of them must be there.
        needed: the right one and the passages, all of which must be there.
        reach: how many words before and after the question they may stand in.
    """

    item: int
    question: tuple[bytes, ...]
    options: tuple[bytes, ...]
    needed: tuple[bytes, ...]
    reach: int


@dataclass(frozen=True, eq=False)
class SameItems:
    """What is looked for as a whole: the items of an index that text cannot be searched for otherwise.

    Attributes:
        index: the index, without those items among its untestable ones.
        wanted: those items.
        vocabulary: word of their questions -> number from 1.
        tables: the beginnings of their questions, by their length in words.
    """

    index: BenchmarkIndex
    wanted: tuple[_Wanted, ...]
    vocabulary: dict[bytes, int]
    tables: tuple[GramTable, ...]


def build_same_items(index: BenchmarkIndex) -> SameItems:
    """Return what is looked for of the untestable items of an index: those with a question and two options in words."""
    wanted = [
        found
        for untestable in index.untestable
        if (found := _describe_item(untestable.item, index.items[untestable.item])) is not None
    ]
    covered = {one.item for one in wanted}
    rest = tuple(untestable for untestable in index.untestable if untestable.item not in covered)
    vocabulary: dict[bytes, int] = {}
    for one in wanted:
        for word in one.question:
            vocabulary.setdefault(word, len(vocabulary) + 1)
    return SameItems(
        dataclasses.replace(index, untestable=rest),
        tuple(wanted),
        vocabulary,
        tuple(_build_tables(wanted, vocabulary)),
    )


def find_same_items(same: SameItems, texts: Sequence[str]) -> list[list[Overlap]]:
    """Return for each text the items that it holds as a whole, in their order.

    Args:
        same: what to look for.
        texts: examples to learn from, question, options and answer in each.
    """
    found: list[list[Overlap]] = []
    for batch in _iter_batches(texts):
        places = _find_places(same, batch)
        for number in range(len(batch)):
            items = sorted(places.get(number, {}).items())
            found.append(
                [build_overlap(same.index, item, "same_item", (1.0, evidence)) for item, evidence in items]
            )
    return found


def holds_options(item: BenchmarkItem, text: str) -> bool:
    """Tell whether a text holds most options of an item (`NEAR_SHARE` of them), the right one among them."""
    options = {_join(words) for words in map(split_words, item.options) if words}
    held = _join(split_words(text))
    if _join(split_words(item.answer)) not in held:
        return False
    return sum(option in held for option in options) >= NEAR_SHARE * len(options)


def _describe_item(number: int, item: BenchmarkItem) -> _Wanted | None:
    question = tuple(split_words(item.question))
    options = dict.fromkeys(_join(words) for words in map(split_words, item.options) if words)
    needed = [_join(words) for words in map(split_words, (item.answer, *item.passages)) if words]
    if not question or len(options) < _LEAST_OPTIONS:
        return None
    words = sum(part.count(b" ") for part in (*options, *needed))
    return _Wanted(number, question, tuple(options), tuple(needed), ANSWER_DISTANCE + words)


def _join(words: Sequence[bytes]) -> bytes:
    return b" " + b" ".join(words) + b" "


def _build_tables(wanted: Sequence[_Wanted], vocabulary: dict[bytes, int]) -> Iterator[GramTable]:
    for length in range(1, QUESTION_WORDS + 1):
        units = [unit for unit, one in enumerate(wanted) if min(len(one.question), QUESTION_WORDS) == length]
        if units:
            first = [[vocabulary[word] for word in wanted[unit].question[:length]] for unit in units]
            runs = [hash_runs(hash_words(np.array(words, np.uint32)), length) for words in first]
            yield build_table(
                length, np.concatenate(runs), np.array(units, np.int64), np.zeros(len(units), np.int64)
            )


def _iter_batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = characters = 0
    for end, text in enumerate(texts):
        if end > start and characters + len(text) > _BATCH_CHARACTERS:
            yield texts[start:end]
            start, characters = end, 0
        characters += len(text)
    if start < len(texts):
        yield texts[start:]


def _find_places(same: SameItems, texts: Sequence[str]) -> dict[int, dict[int, str]]:
    """Return for each text that holds items which, and its words there."""
    words: list[bytes] = []
    starts = [0]
    for text in texts:
        words += split_words(text)
        words.append(b"")  # no question goes on over the end of a text
        starts.append(len(words))
    ids = np.fromiter(map(same.vocabulary.get, words, itertools.repeat(0)), np.uint32, len(words))
    values = hash_words(ids)
    found: dict[int, dict[int, str]] = {}
    for table in same.tables:
        positions, units, _ = table.find(hash_runs(values, table.words))
        for position, unit in zip(positions.tolist(), units.tolist(), strict=True):
            one = same.wanted[unit]
            end = position + len(one.question)
            if tuple(words[position:end]) != one.question:
                continue
            place = bisect.bisect_right(starts, position) - 1
            first, last = (
                max(starts[place], position - one.reach),
                min(starts[place + 1] - 1, end + one.reach),
            )
            around = _join(words[first:position]) + b"\n" + _join(words[end:last])
            if _holds(around, one):
                quoted = decode_words(words[position : min(end, position + EVIDENCE_WORDS)])
                found.setdefault(place, {}).setdefault(one.item, quoted)
    return found


def _holds(around: bytes, one: _Wanted) -> bool:
    if not all(part in around for part in one.needed):
        return False
    return sum(option in around for option in one.options) >= NEAR_SHARE * len(one.options)
