"""Search one document for every benchmark item."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from biomedllama_cli.corpus.decontamination.grams import GramTable, Hashes, Numbers, hash_runs, hash_words
from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex, Ids, Texts
from biomedllama_cli.corpus.decontamination.words import decode_words, split_words
from biomedllama_cli.corpus.document import Metadata

Kind = Literal["pmid", "13-gram", "question_and_answer", "near-duplicate", "same_item"]

NEAR_SHARE = 0.75
"""Share of an item's words that a near-duplicate holds in the same order; a tenth of the words changed leaves 0.9."""
ANSWER_DISTANCE = 100
"""Words between a short question and its answer, at most: the options and an explanation fit in between."""
EVIDENCE_WORDS = 40
"""Words of a document that a report quotes, at most."""
_MAX_PLACES = 16  # of one text in one piece whose overlaps are joined
# A piece bounds memory whatever the length of a document; the overlap is longer than any vignette or abstract.
_PIECE_CHARACTERS = 1 << 18
_PIECE_OVERLAP = 1 << 14


@dataclass(frozen=True)
class Overlap:
    """A benchmark item found in a document.

    Attributes:
        benchmark: name of the benchmark.
        item_id: id of the item there.
        kind: how it was found.
        share: share of the words of the item's text (question or passage) that the document holds; 1 for a PMID.
        evidence: the document's words there, folded, at most 40.
    """

    benchmark: str
    item_id: str
    kind: Kind
    share: float
    evidence: str

    def describe(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class _Piece:
    """The words of a document, or of a part of a long one."""

    words: list[bytes]
    ids: Ids
    values: Hashes

    def quote(self, start: int, end: int) -> str:
        return decode_words(self.words[max(start, 0) : min(end, max(start, 0) + EVIDENCE_WORDS)])


def find_overlaps(index: BenchmarkIndex, text: str, metadata: Metadata | None = None) -> list[Overlap]:
    """Return the benchmark items that a document holds, at most one overlap by PMID and one by text per item.

    Args:
        index: what to look for.
        text: the document.
        metadata: its PMID counts; for an article of PubMed Central that of its citation.
    """
    overlaps: list[Overlap] = []
    if metadata is not None and metadata.pmid is not None:
        for number in index.pmids.get(metadata.pmid, ()):
            overlaps.append(build_overlap(index, number, "pmid", (1.0, f"PMID {metadata.pmid}")))
    found: dict[int, Overlap] = {}
    for part in _iter_parts(text):
        piece = _build_piece(index, split_words(part))
        _find_runs(index, piece, found)
        _find_near(index, piece, found)
    return overlaps + [found[number] for number in sorted(found)]


def screen_documents(index: BenchmarkIndex, texts: Sequence[str]) -> list[bool]:
    """Tell which documents deserve `find_overlaps`: all that hold an item, and few others.

    Many short documents are searched as one, so that they cost no more per byte than long ones; a word that is
    no word keeps runs from crossing their borders.
    """
    words: list[bytes] = []
    starts = [0]
    for text in texts:
        words += split_words(text)
        words.append(b"")
        starts.append(len(words))
    piece = _build_piece(index, words)
    suspicious = [_confirm(index.runs, piece, index.units)[0]]
    positions, units, offsets = _confirm(index.seeds, piece, index.units)
    for places in _iter_places(index, units, positions - offsets):
        # The place is a diagonal in the middle of the seeds: its seeds tell which documents they are from.
        suspicious.append(positions[places.seeds])
    wanted = np.zeros(len(starts), np.bool_)
    wanted[np.searchsorted(starts, np.concatenate(suspicious), side="right") - 1] = True
    return [bool(suspected) for suspected in wanted[: len(texts)]]


def _build_piece(index: BenchmarkIndex, words: list[bytes]) -> _Piece:
    ids = np.fromiter(map(index.vocabulary.get, words, itertools.repeat(0)), np.uint32, len(words))
    return _Piece(words, ids, _word_values(len(index.vocabulary))[ids])


@functools.lru_cache(maxsize=2)
def _word_values(words: int) -> Hashes:
    return hash_words(np.arange(words + 1, dtype=np.uint32))


def _iter_parts(text: str) -> Iterator[str]:
    if len(text) <= _PIECE_CHARACTERS:
        yield text
        return
    for start in range(0, len(text) - _PIECE_OVERLAP, _PIECE_CHARACTERS - _PIECE_OVERLAP):
        yield text[start : start + _PIECE_CHARACTERS]


def build_overlap(index: BenchmarkIndex, number: int, kind: Kind, found: tuple[float, str]) -> Overlap:
    """Return how an item was found; `found` is the share of its words and the document's words there."""
    item = index.items[number]
    return Overlap(item.benchmark, item.item_id, kind, round(found[0], 3), found[1])


def _keep(found: dict[int, Overlap], number: int, overlap: Overlap) -> None:
    """Keep the strongest overlap of each item: the larger share, the first of equal ones."""
    if number not in found or overlap.share > found[number].share:
        found[number] = overlap


def _confirm(table: GramTable, piece: _Piece, units: Texts) -> tuple[Numbers, Numbers, Numbers]:
    """Return (position, unit, offset) where the words themselves are equal, not only their hashes."""
    positions, unit, offsets = table.find(hash_runs(piece.values, table.words))
    if not len(positions):
        return positions, unit, offsets
    places = units.starts[unit] + offsets
    same = np.ones(len(positions), np.bool_)
    for word in range(table.words):
        same &= piece.ids[positions + word] == units.words[places + word]
    return positions[same], unit[same], offsets[same]


def _find_runs(index: BenchmarkIndex, piece: _Piece, found: dict[int, Overlap]) -> None:
    """Find items by runs of 13 words."""
    positions, units, offsets = _confirm(index.runs, piece, index.units)
    if not len(units):
        return
    for unit in np.unique(units).tolist():
        here = units == unit
        diagonals, counts = np.unique(positions[here] - offsets[here], return_counts=True)
        nearest = np.argsort(-counts, kind="stable")[:_MAX_PLACES]
        words = index.units[unit]
        covered = np.zeros(len(words), np.bool_)
        longest = (0, 0)
        for diagonal in diagonals[nearest].tolist():
            for start, end in _list_common_runs(words, piece.ids, diagonal, index.runs.words):
                covered[start:end] = True
                longest = max(longest, (end - start, diagonal + start))
        number = int(index.units.items[unit])
        evidence = (float(covered.mean()), piece.quote(longest[1], sum(longest)))
        _keep(found, number, build_overlap(index, number, "13-gram", evidence))


def _list_common_runs(words: Ids, ids: Ids, diagonal: int, length: int) -> list[tuple[int, int]]:
    """Return [start, end) of the runs of at least `length` equal words when `words` is laid at `diagonal`.

    >>> _list_common_runs(np.array([1, 2, 3, 4, 5]), np.array([9, 2, 3, 9, 5]), 0, 2)
    [(1, 3)]
    """
    first, last = max(0, -diagonal), min(len(words), len(ids) - diagonal)
    equal = np.zeros(last - first + 2, np.int8)
    equal[1:-1] = words[first:last] == ids[diagonal + first : diagonal + last]
    edges = np.flatnonzero(np.diff(equal)) + first
    return [
        (start, end)
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        if end - start >= length
    ]


def _find_near(index: BenchmarkIndex, piece: _Piece, found: dict[int, Overlap]) -> None:
    """Find short questions beside their answers, and items some of whose words were changed."""
    positions, units, offsets = _confirm(index.seeds, piece, index.units)
    for place in _iter_places(index, units, positions - offsets):
        unit, diagonal = place.unit, place.diagonal
        number = int(index.units.items[unit])
        if number in found and found[number].kind == "13-gram":
            continue
        words = index.units[unit]
        slack = 2 + len(words) // 8
        start, end = max(diagonal - slack, 0), min(diagonal + len(words) + slack, len(piece.ids))
        share = measure_similarity(words, piece.ids[start:end])
        if share < NEAR_SHARE:
            continue
        kind: Kind = "near-duplicate"
        if index.whole[unit]:
            kind = "question_and_answer"
            if not _has_answer(index, number, piece.ids, (diagonal, diagonal + len(words))):
                continue
        evidence = (share, piece.quote(diagonal, diagonal + len(words)))
        _keep(found, number, build_overlap(index, number, kind, evidence))


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a unit may stand: the word it would begin at, and which of the seeds found say so."""

    unit: int
    diagonal: int
    seeds: Numbers


def _iter_places(index: BenchmarkIndex, units: Numbers, diagonals: Numbers) -> Iterator[_Place]:
    """Yield each place of the document that holds enough of a unit's seeds."""
    if not len(units):
        return
    order = np.lexsort((diagonals, units))
    units, diagonals = units[order], diagonals[order]
    lengths = index.units.starts[units + 1] - index.units.starts[units]
    # Words put in or left out shift what follows: neighbouring diagonals are one place.
    apart = (units[1:] != units[:-1]) | (diagonals[1:] - diagonals[:-1] > 2 + lengths[1:] // 8)
    breaks = np.flatnonzero(apart) + 1
    starts, ends = np.append(0, breaks), np.append(breaks, len(units))
    enough = ends - starts >= index.needs[units[starts]]
    for start, end in zip(starts[enough].tolist(), ends[enough].tolist(), strict=True):
        yield _Place(int(units[start]), int(diagonals[(start + end) // 2]), order[start:end])


def _has_answer(index: BenchmarkIndex, number: int, ids: Ids, question: tuple[int, int]) -> bool:
    """Tell whether the right answer stands before or after the question, three quarters of its words in place."""
    start, end = max(question[0], 0), question[1]
    sides = (ids[max(start - ANSWER_DISTANCE, 0) : start], ids[end : end + ANSWER_DISTANCE])
    first, last = np.searchsorted(index.answers.items, [number, number + 1]).tolist()
    for answer in map(index.answers.__getitem__, range(first, last)):
        for side in sides:
            if len(side) >= len(answer):
                windows = np.lib.stride_tricks.sliding_window_view(side, len(answer))
                if ((windows == answer).mean(axis=1) >= NEAR_SHARE).any():
                    return True
    return False


def measure_similarity(words: Ids, place: Ids) -> float:
    """Return the share of `words` that `place` holds in the same order (longest common subsequence).

    One step per word of the place on integers of one bit per word (Hyyrö 2004).

    >>> measure_similarity(np.array([1, 2, 3, 4]), np.array([9, 1, 7, 3, 4]))
    0.75
    """
    masks: dict[int, int] = {}
    for position, word in enumerate(words.tolist()):
        masks[word] = masks.get(word, 0) | 1 << position
    every = (1 << len(words)) - 1
    state = every
    for word in place.tolist():
        if mask := masks.get(word):
            matched = state & mask
            state = ((state + matched) | (state - matched)) & every
    return (len(words) - state.bit_count()) / len(words)
