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
_HEADING_WORDS = 16  # between a question and its options, at most


@dataclass(frozen=True)
class _Wanted:
    """One item.

    Attributes:
        item: its number.
        question: the words of its question.
        options: its options, each as words between spaces; `NEAR_SHARE` of them must stand near the question.
        answer: the right one, which must be among those; nothing but spaces where it has no words.
        passages: its passages, all of which must be there.
        reach: how many words before and after the question the options may stand in.
        far: likewise the passages.
    """

    item: int
    question: tuple[bytes, ...]
    options: tuple[bytes, ...]
    answer: bytes
    passages: tuple[bytes, ...]
    reach: int
    far: int


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
    return _holds(_list_options(item), _join(split_words(item.answer)), _join(split_words(text)))


def _describe_item(number: int, item: BenchmarkItem) -> _Wanted | None:
    question, options = tuple(split_words(item.question)), _list_options(item)
    if not question or len(options) < _LEAST_OPTIONS:
        return None
    passages = tuple(_join(words) for words in map(split_words, item.passages) if words)
    near, far = (sum(part.count(b" ") - 1 for part in parts) for parts in (options, passages))
    reach = near + len(options) + _HEADING_WORDS  # a letter before each option
    return _Wanted(
        item=number,
        question=question,
        options=options,
        answer=_join(split_words(item.answer)),
        passages=passages,
        reach=reach,
        far=reach + far + ANSWER_DISTANCE,
    )


def _list_options(item: BenchmarkItem) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(_join(words) for words in map(split_words, item.options) if words))


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
            bounds = starts[place], starts[place + 1] - 1
            near, far = (_cut(words, bounds, (position, end), reach) for reach in (one.reach, one.far))
            if _holds(one.options, one.answer, near) and all(part in far for part in one.passages):
                quoted = decode_words(words[position : min(end, position + EVIDENCE_WORDS)])
                found.setdefault(place, {}).setdefault(one.item, quoted)
    return found


def _holds(options: Sequence[bytes], answer: bytes, words: bytes) -> bool:
    if answer.strip() and answer not in words:
        return False
    return sum(option in words for option in options) >= NEAR_SHARE * len(options)


def _cut(words: Sequence[bytes], bounds: tuple[int, int], question: tuple[int, int], reach: int) -> bytes:
    """Return the words before and after a question that are within reach and belong to the same text."""
    before = words[max(bounds[0], question[0] - reach) : question[0]]
    return _join(before) + b"\n" + _join(words[question[1] : min(bounds[1], question[1] + reach)])
