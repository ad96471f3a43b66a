"""An index on disk: blocks of passages that bm25s scores, and the vocabulary they share.

    words-300/meta.json                  what it was made from; written last
    words-300/vocabulary.txt             the terms, sorted, end to end
    words-300/vocabulary.npy             where each begins, int64 [terms + 1]
    words-300/block-00000/*.csc.index.npy    bm25s: the score of every term in every passage that holds it
    words-300/block-00000/terms.npy      numbers of the terms that occur here, int32 [columns], rising
    words-300/block-00000/spans.npy      first character and end of every passage, int64 [passages, 2]
    words-300/block-00000/starts.npy     first passage of every document, and their number, int64 [documents + 1]

All arrays are mapped, so an index takes as little memory as its questions need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from biomedllama_cli.chat.retrieval.terms import Stems, split_question
from biomedllama_cli.errors import DataError

SCHEMA_VERSION = "biomedllama.retrieval/1"
META_FILE, VOCABULARY_FILE, OFFSETS_FILE = "meta.json", "vocabulary.txt", "vocabulary.npy"
TERMS_FILE, SPANS_FILE, STARTS_FILE = "terms.npy", "spans.npy", "starts.npy"

Ints = npt.NDArray[np.integer[Any]]


class IndexIdentity(BaseModel):
    """What an index is made from: where two are equal, so are their answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: str = SCHEMA_VERSION
    corpus: str
    """SHA-256 of the corpus' manifest, which holds the hashes of its shards."""
    passage_words: int
    terms_version: int
    stemmer: str
    """Algorithm and version of the package."""
    method: str
    k1: float
    b: float


class IndexMeta(BaseModel):
    """What an index says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: IndexIdentity
    documents: int
    passages: int
    terms: int
    blocks: int
    table: tuple[int, int]
    """Size (in bytes) and time of the last change (in nanoseconds) of the document table, whose hash was right."""
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that shares terms with a question.

    Attributes:
        row: of its document in the corpus' table.
        start: its first character in the document.
        end: the one after its last.
        score: of BM25.
    """

    row: int
    start: int
    end: int
    score: float


class Vocabulary:
    """The terms of an index, looked up on the disk.

    Args:
        folder: of the index.
    """

    def __init__(self, folder: Path) -> None:
        self._offsets = np.load(folder / OFFSETS_FILE, mmap_mode="r", allow_pickle=False)
        size = (folder / VOCABULARY_FILE).stat().st_size
        if int(self._offsets[-1]) != size:
            raise ValueError(f"{VOCABULARY_FILE} has {size} bytes")
        # An empty file cannot be mapped.
        self._letters = np.memmap(folder / VOCABULARY_FILE, np.uint8, "r") if size else np.zeros(0, np.uint8)

    def find(self, term: str) -> int | None:
        """Return the number of a term, or None where the corpus does not hold it."""
        wanted = term.encode()
        low, high = 0, len(self._offsets) - 1
        while low < high:
            middle = (low + high) // 2
            if self._read(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self._offsets) - 1 and self._read(low) == wanted else None

    def _read(self, number: int) -> bytes:
        return self._letters[int(self._offsets[number]) : int(self._offsets[number + 1])].tobytes()


class Block:
    """Passages of neighbouring documents.

    Args:
        folder: of the block.
        first_row: of its first document in the corpus' table.
    """

    def __init__(self, folder: Path, first_row: int) -> None:
        import bm25s

        self.first_row = first_row
        self.scorer = bm25s.BM25.load(
            folder, mmap=True, allow_pickle=False, load_vocab=False, show_progress=False, verbosity=0
        )
        self._terms, self._spans, self._starts = (
            np.load(folder / name, mmap_mode="r", allow_pickle=False)
            for name in (TERMS_FILE, SPANS_FILE, STARTS_FILE)
        )
        if len(self._spans) != self._starts[-1] or self.scorer.scores["num_docs"] != len(self._spans):
            raise ValueError(f"{folder.name} has {len(self._spans)} passages of {self._starts[-1]}")

    @property
    def documents(self) -> int:
        """How many documents it holds."""
        return len(self._starts) - 1

    def find(self, terms: Ints, count: int) -> Iterator[tuple[int, Hit]]:
        """Yield hits that may be among the best, each with its place among those of its document, from 0.

        Args:
            terms: numbers of the question's terms, int32 [terms].
            count: how many hits are wanted.
        """
        columns = np.searchsorted(self._terms, terms)
        inside = columns < len(self._terms)
        columns, terms = columns[inside], terms[inside]
        columns = columns[self._terms[columns] == terms]
        if not len(columns):
            return
        scores = self.scorer.get_scores_from_ids(columns)
        best = np.maximum.reduceat(scores, self._starts[:-1])
        for document in _choose_largest(best, count).tolist():
            first, end = int(self._starts[document]), int(self._starts[document + 1])
            for place, passage in enumerate(_choose_largest(scores[first:end], count).tolist()):
                start, stop = self._spans[first + passage].tolist()
                score = float(scores[first + passage])
                yield place, Hit(self.first_row + document, start, stop, score)


def _choose_largest(scores: npt.NDArray[Any], count: int) -> Ints:
    """Return the places of the largest scores above zero, largest first, equal ones in their order.

    >>> _choose_largest(np.array([0.0, 2.0, 5.0, 2.0, 2.0]), 3).tolist()
    [2, 1, 3]
    """
    least = np.partition(scores, -count)[-count] if count < len(scores) else 0
    places = np.flatnonzero((scores >= least) & (scores > 0))
    return places[np.argsort(-scores[places], kind="stable")][:count]


class Index:
    """An index that is open.

    Args:
        folder: of the index.
        meta: what its `meta.json` says.
    """

    def __init__(self, folder: Path, meta: IndexMeta) -> None:
        self.folder, self.meta = folder, meta
        self._stems = Stems()
        self._vocabulary = Vocabulary(folder)
        self.blocks: list[Block] = []
        row = 0
        for number in range(meta.blocks):
            self.blocks.append(Block(folder / name_block(number), row))
            row += self.blocks[-1].documents
        if row != meta.documents:
            raise ValueError(f"{row} documents of {meta.documents}")

    def find(self, question: str, count: int) -> list[Hit]:
        """Return the best passages: of each document its best one first, and only then its others.

        Equal scores keep the order of the documents. A passage that shares no term with the question is never among
        them.

        Args:
            question: any text.
            count: how many at most.

        Raises:
            DataError: the files of the index are damaged.
        """
        stems = dict.fromkeys(self._stems.find(word) for word in split_question(question))
        numbers = (self._vocabulary.find(stem) for stem in stems)
        # Of the type of the mapped arrays they are looked up in: for any other all of those would be copied.
        terms = np.array([number for number in numbers if number is not None], np.int32)
        try:
            found = [hit for block in self.blocks for hit in block.find(terms, count)] if len(terms) else []
        except (IndexError, ValueError) as error:
            raise DataError(
                f"The index {self.folder} is damaged ({error}).", "Build it anew with --rebuild-index."
            ) from None
        found.sort(key=lambda placed: (placed[0] > 0, -placed[1].score, placed[1].row, placed[1].start))
        return [hit for _, hit in found[:count]]


def name_block(number: int) -> str:
    """Return the name of a block's folder.

    >>> name_block(3)
    'block-00003'
    """
    return f"block-{number:05d}"


def open_index(folder: Path, identity: IndexIdentity) -> tuple[Index | None, str]:
    """Return the index of a folder, or None and why there is none of use: empty where there is nothing at all."""
    try:
        meta = IndexMeta.model_validate_json((folder / META_FILE).read_bytes())
    except FileNotFoundError:
        return None, ""
    except (OSError, ValidationError):
        return None, f"its {META_FILE} cannot be read"
    if meta.identity != identity:
        return None, f"it was made from {_name_difference(meta.identity, identity)}"
    try:
        return Index(folder, meta), ""
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
    ) as error:  # what numpy and json say of half a file
        return None, f"it is damaged ({error})"


def _name_difference(old: IndexIdentity, new: IndexIdentity) -> str:
    fields: Sequence[str] = [
        name for name in IndexIdentity.model_fields if getattr(old, name) != getattr(new, name)
    ]
    return f"another {fields[0].replace('_', ' ')}"
