"""An index built in two passes and bounded memory: terms are counted block by block, then weighed by all of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from biomedllama_cli.chat.retrieval.index import (
    META_FILE,
    OFFSETS_FILE,
    SPANS_FILE,
    STARTS_FILE,
    TERMS_FILE,
    VOCABULARY_FILE,
    IndexIdentity,
    IndexMeta,
    name_block,
)
from biomedllama_cli.chat.retrieval.passages import Span, cut_passages
from biomedllama_cli.chat.retrieval.terms import Stems, split_words

Advance = Callable[[int], None]
"""Is told how many documents more were read."""

BLOCK_POSTINGS = 1 << 26
"""Pairs of a term and a passage in a block, about: 1.7 GB of memory while it is written."""
_BATCH_WORDS = 1 << 20
_KNOWN_WORDS = 1 << 21  # spellings whose stems are kept in mind
_WEIGHED_PASSAGES = 1 << 16
_TOLD_AT_ONCE = 64  # documents
_COUNTS = ("counted-terms.npy", "counted-times.npy", "counted-ends.npy", "counted-words.npy")
_OWN_ENTRIES = re.compile(
    f"{META_FILE}|{VOCABULARY_FILE}|{OFFSETS_FILE}"
    rf"|block-\d{{5,}}(/({'|'.join((*_COUNTS, SPANS_FILE, STARTS_FILE, TERMS_FILE))}|\w+(\.csc)?\.index\.(npy|json)))?"
)
_MOST_TIMES = np.iinfo(np.uint16).max


class TermNumbers(dict[str, int]):
    """Numbers of words by their stem, in the order they are first met."""

    def __init__(self) -> None:
        super().__init__()
        self.stems: dict[str, int] = {}
        self._find_stem = Stems().find

    def __missing__(self, word: str) -> int:
        if len(self) >= _KNOWN_WORDS:
            self.clear()
        number = self[word] = self.stems.setdefault(self._find_stem(word), len(self.stems))
        return number


class BlockCounter:
    """Counts terms, and writes what it counted as blocks.

    Args:
        folder: of the index to be.
        block_postings: pairs of a term and a passage after which a block ends, at the end of a document.
    """

    def __init__(self, folder: Path, block_postings: int) -> None:
        self._folder, self._block_postings = folder, block_postings
        self._batch_words = min(_BATCH_WORDS, block_postings)
        self._numbers = TermNumbers()
        self._frequencies = np.zeros(0, np.int64)
        self.passages = self.words = self.blocks = 0
        self._begin_block()

    def _begin_block(self) -> None:
        self._spans: list[Span] = []
        self._starts = [0]
        self._lengths: list[int] = []
        self._batch: list[int] = []
        self._batch_first = 0
        self._counted: list[tuple[npt.NDArray[Any], ...]] = []
        self._postings = 0

    def add(self, text: str, title: str, longest: int) -> None:
        """Count the terms of a document's passages; the title counts in each, once.

        Passages that hold nothing but the title are left out where there are others.
        """
        title_words = split_words(title)
        spans = cut_passages(text, longest)
        passages = [split_words(text[start:end]) for start, end in spans]
        first = _count_title_passages(passages, title_words)
        spans = spans[first:]
        numbers = self._numbers
        for words in passages[first:]:
            if words[: len(title_words)] != title_words:
                words += title_words
            self._batch += [numbers[word] for word in words]
            self._lengths.append(len(words))
        self._spans += spans
        self._starts.append(len(self._spans))
        if len(self._batch) >= self._batch_words:
            self._count_batch()
        if self._postings >= self._block_postings:
            self._write_block()

    def _count_batch(self) -> None:
        """Turn the words of the batch into pairs of passage and term, with how often each occurs."""
        lengths = np.array(self._lengths[self._batch_first :], np.int64)
        passages = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
        pairs, times = np.unique(passages << 32 | np.array(self._batch, np.int64), return_counts=True)
        terms = (pairs & 0xFFFFFFFF).astype(np.int32)
        frequencies = np.bincount(terms, minlength=len(self._numbers.stems))
        frequencies[: len(self._frequencies)] += self._frequencies
        self._frequencies = frequencies
        ends = np.bincount(pairs >> 32, minlength=len(lengths))
        self._counted.append((terms, np.minimum(times, _MOST_TIMES).astype(np.uint16), ends))
        self._postings += len(terms)
        self._batch, self._batch_first = [], len(self._lengths)

    def _write_block(self) -> None:
        if self._batch_first < len(self._lengths):
            self._count_batch()
        folder = self._folder / name_block(self.blocks)
        folder.mkdir()
        terms, times, sizes = (np.concatenate(parts) for parts in zip(*self._counted, strict=True))
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        for name, array in zip(_COUNTS, (terms, times, ends, np.array(self._lengths, np.int64)), strict=True):
            np.save(folder / name, array, allow_pickle=False)
        np.save(folder / SPANS_FILE, np.array(self._spans, np.int64), allow_pickle=False)
        np.save(folder / STARTS_FILE, np.array(self._starts, np.int64), allow_pickle=False)
        self.blocks += 1
        self.passages += len(self._spans)
        self.words += sum(self._lengths)
        self._begin_block()

    def finish(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Write the last block and the vocabulary.

        Returns:
            the number in the vocabulary of every term as it was counted, and the passages that hold each, by number.
        """
        if self._spans:
            self._write_block()
        terms = sorted(self._numbers.stems)  # by code point, which is the order of UTF-8 too
        order = np.array([self._numbers.stems[term] for term in terms], np.int64)
        numbers = np.empty(len(terms), np.int64)
        numbers[order] = np.arange(len(terms))
        offsets = np.zeros(len(terms) + 1, np.int64)
        with (self._folder / VOCABULARY_FILE).open("wb") as file:
            for number, term in enumerate(terms):
                offsets[number + 1] = offsets[number] + file.write(term.encode())
        np.save(self._folder / OFFSETS_FILE, offsets, allow_pickle=False)
        return numbers, self._frequencies[order] if len(order) else np.zeros(0, np.int64)


def _count_title_passages(passages: Sequence[Sequence[str]], title: Sequence[str]) -> int:
    """Return how many passages at the beginning hold nothing but the title; 0 where all do.

    >>> _count_title_passages([["on", "cress"], ["and", "larks"], ["cress", "grew"]], ["on", "cress", "and", "larks"])
    2
    """
    read = 0
    for number, words in enumerate(passages):
        if not words or words != title[read : read + len(words)]:
            return number
        read += len(words)
    return 0


def build_index(
    texts: Iterable[tuple[str, str]],
    folder: Path,
    identity: IndexIdentity,
    *,
    table: tuple[int, int] = (0, 0),
    advance: Advance | None = None,
    block_postings: int = BLOCK_POSTINGS,
) -> None:
    """Write the index of documents into an empty folder.

    Memory: one block, the vocabulary (about 150 bytes a term), and spellings kept in mind; the number of documents
    counts only through the vocabulary. A block is weighed by the frequencies of terms in all of them, so where blocks
    end changes no score.

    Args:
        texts: text and title of every document, in order.
        folder: where to write; it exists.
        identity: what `meta.json` is to say; its method is `lucene`.
        table: size and time of the last change of the documents' table, for `meta.json`.
        advance: is told the progress of the first pass, which takes nearly all of the time.
        block_postings: pairs of a term and a passage in a block.
    """
    counter = BlockCounter(folder, block_postings)
    documents = told = 0
    for documents, (text, title) in enumerate(texts, 1):
        counter.add(text, title, identity.passage_words)
        if documents - told == _TOLD_AT_ONCE and advance is not None:
            advance(_TOLD_AT_ONCE)
            told = documents
    if advance is not None and documents > told:
        advance(documents - told)
    numbers, frequencies = counter.finish()
    weights = weigh_terms(frequencies, counter.passages)
    average_words = counter.words / max(counter.passages, 1) or 1.0  # where there are none, none is divided
    for block in range(counter.blocks):
        _weigh_block(folder / name_block(block), numbers, weights, average_words, identity)
    meta = IndexMeta(
        identity=identity,
        documents=documents,
        passages=counter.passages,
        terms=len(numbers),
        blocks=counter.blocks,
        table=table,
        versions={name: version(name) for name in ("bm25s", "PyStemmer", "numpy")},
    )
    (folder / META_FILE).write_text(meta.model_dump_json(indent=1) + "\n")


def weigh_terms(frequencies: npt.NDArray[Any], passages: int) -> npt.NDArray[np.float64]:
    """Return the inverse document frequencies of Lucene's BM25 (Kamphuis et al. 2020, doi:10.1007/978-3-030-45442-5_4).

    Args:
        frequencies: passages that hold each term, shape [terms].
        passages: all of them.

    >>> weigh_terms(np.array([1, 4]), 4).round(3).tolist()
    [1.204, 0.105]
    """
    return np.log1p((passages - frequencies + 0.5) / (frequencies + 0.5))


def _weigh_block(
    folder: Path,
    numbers: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    average_words: float,
    identity: IndexIdentity,
) -> None:
    """Replace the counts of a block by scores, sorted by term, in the form that bm25s loads."""
    import bm25s

    terms, times, ends, words = (np.load(folder / name, allow_pickle=False) for name in _COUNTS)
    here = np.zeros(len(numbers), np.bool_)
    here[terms] = True
    present = np.sort(numbers[here])
    columns = np.empty(len(numbers), np.int32)
    columns[here] = np.searchsorted(present, numbers[here])
    weight = np.zeros(len(numbers))
    weight[here] = weights[numbers[here]]
    scores = np.empty(len(terms), np.float32)
    slack = identity.k1 * (1 - identity.b + identity.b * words / average_words)
    for first in range(0, len(words), _WEIGHED_PASSAGES):
        last = min(first + _WEIGHED_PASSAGES, len(words))
        part = slice(int(ends[first]), int(ends[last]))
        common = np.repeat(slack[first:last], np.diff(ends[first : last + 1]))
        scores[part] = weight[terms[part]] * times[part] / (common + times[part])
    matrix = csr_matrix((scores, columns[terms], ends), shape=(len(words), len(present))).tocsc()
    scorer = bm25s.BM25(k1=identity.k1, b=identity.b, method=identity.method)
    scorer.vocab_dict, scorer.nonoccurrence_array = {}, None
    scorer.scores = {
        "data": matrix.data,
        "indices": matrix.indices.astype(np.int32, copy=False),
        "indptr": matrix.indptr.astype(np.int64),
        "num_docs": len(words),
    }
    scorer.save(folder, allow_pickle=False, show_progress=False)
    np.save(folder / TERMS_FILE, present.astype(np.int32), allow_pickle=False)
    for name in _COUNTS:
        (folder / name).unlink()


def find_foreign(folder: Path) -> Path | None:
    """Return the first entry of a folder that is no part of an index, a link, or the folder itself if it is one."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return folder
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not _OWN_ENTRIES.fullmatch(path.relative_to(folder).as_posix()):
            return path
    return None


def remove_index(folder: Path) -> None:
    """Remove what is left of an index, if anything is; a folder that holds anything else stays."""
    if folder.exists() and find_foreign(folder) is None:
        shutil.rmtree(folder)
