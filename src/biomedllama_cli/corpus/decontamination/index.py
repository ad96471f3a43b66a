"""Everything that is looked for, in a form every worker loads from a folder in a moment."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.decontamination.grams import GramTable, Numbers, restore_table
from biomedllama_cli.corpus.decontamination.items import BenchmarkItem, BenchmarkSource
from biomedllama_cli.errors import DataError

FORMAT = "biomedllama.decontamination/1"
ITEMS_FILE, ARRAYS_FILE = "items.json", "index.npz"
RUN_WORDS = 13
"""Words in a run that counts as an overlap (Brown et al. 2020, GPT-3, Appendix C: 13-grams)."""
QUESTION_WORDS = 8
"""Words a question needs for being looked for as a whole, together with its answer."""

Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Texts:
    """Word ids of many texts end to end.

    Attributes:
        words: the ids.
        starts: where each text begins, and the end of the last.
        items: number of the item each text belongs to.
    """

    words: Ids
    starts: Numbers
    items: Numbers

    def __getitem__(self, number: int) -> Ids:
        """Return the ids of one text."""
        return self.words[self.starts[number] : self.starts[number + 1]]

    def __len__(self) -> int:
        """Return how many texts there are."""
        return len(self.items)


@dataclass(frozen=True)
class Untestable:
    """An item that no text can be searched for, and why (`question_under_8_words` and the like)."""

    item: int
    reason: str


@dataclass(frozen=True, eq=False)
class BenchmarkIndex:
    """What is looked for.

    Attributes:
        items: the benchmark items.
        sources: where they came from.
        untestable: those that cannot be looked for.
        sha256: identity: of the items, where they came from and the format.
        pmids: PMID -> numbers of its items.
        vocabulary: word -> id from 1; every other word is 0.
        units: questions and passages, in both readings (words cut at punctuation, and closed over it).
        whole: for each unit whether it counts only as a whole and beside its answer (questions of 8 to 12 words).
        needs: for each unit how many of its seeds make a place worth a closer look.
        answers: right answers of the items that need one, in both readings.
        runs: the units' runs of 13 words.
        seeds: a MinHash sketch of each unit's runs of 4 words.
    """

    items: tuple[BenchmarkItem, ...]
    sources: tuple[BenchmarkSource, ...]
    untestable: tuple[Untestable, ...]
    sha256: str
    pmids: dict[int, list[int]]
    vocabulary: dict[bytes, int]
    units: Texts
    whole: npt.NDArray[np.bool_]
    needs: Numbers
    answers: Texts
    runs: GramTable
    seeds: GramTable


def list_pmids(items: Iterable[BenchmarkItem]) -> dict[int, list[int]]:
    """Return PMID -> numbers of the items made from that article."""
    pmids: dict[int, list[int]] = {}
    for number, item in enumerate(items):
        if item.pmid is not None:
            pmids.setdefault(item.pmid, []).append(number)
    return pmids


def identify_items(items: Iterable[BenchmarkItem], sources: Iterable[BenchmarkSource]) -> str:
    """Return the SHA-256 of what an index is made of; two indexes that agree here find the same."""
    content = [FORMAT, [dataclasses.astuple(item) for item in items], [source.sha256 for source in sources]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def save_index(index: BenchmarkIndex, folder: Path) -> None:
    """Write an index into a folder as JSON and plain arrays; the same index gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "format": FORMAT,
        "sha256": index.sha256,
        "sources": [dataclasses.asdict(source) for source in index.sources],
        "untestable": [dataclasses.asdict(item) for item in index.untestable],
        "items": [dataclasses.asdict(item) for item in index.items],
    }
    (folder / ITEMS_FILE).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    arrays: dict[str, Any] = {
        "vocabulary": np.frombuffer(b" ".join(index.vocabulary), np.uint8),
        "whole": index.whole,
        "needs": index.needs,
    }
    for name, texts in (("units", index.units), ("answers", index.answers)):
        arrays |= {
            f"{name}_words": texts.words,
            f"{name}_starts": texts.starts,
            f"{name}_items": texts.items,
        }
    for name, table in (("runs", index.runs), ("seeds", index.seeds)):
        arrays |= {f"{name}_keys": table.keys, f"{name}_starts": table.starts}
        arrays |= {f"{name}_units": table.units, f"{name}_offsets": table.offsets}
        arrays[f"{name}_length"] = np.int64(table.words)
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    (folder / ARRAYS_FILE).write_bytes(packed.getvalue())


def load_index(folder: Path) -> BenchmarkIndex:
    """Load an index that `save_index` wrote.

    Raises:
        DataError: the folder holds none, or one of another format.
    """
    try:
        described = json.loads((folder / ITEMS_FILE).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise DataError(
                f"{folder}: the index has format {described['format']!r}; this version reads {FORMAT}"
            )
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: no index of benchmark items can be read here ({error})") from error
    items = tuple(
        BenchmarkItem(**item | {"options": tuple(item["options"]), "passages": tuple(item["passages"])})
        for item in described["items"]
    )
    words = loaded["vocabulary"].tobytes().split()
    return BenchmarkIndex(
        items=items,
        sources=tuple(BenchmarkSource(**source) for source in described["sources"]),
        untestable=tuple(Untestable(**item) for item in described["untestable"]),
        sha256=described["sha256"],
        pmids=list_pmids(items),
        vocabulary={word: number for number, word in enumerate(words, start=1)},
        units=_load_texts(loaded, "units"),
        whole=loaded["whole"],
        needs=loaded["needs"],
        answers=_load_texts(loaded, "answers"),
        runs=_load_table(loaded, "runs"),
        seeds=_load_table(loaded, "seeds"),
    )


def _load_texts(arrays: dict[str, Any], name: str) -> Texts:
    return Texts(arrays[f"{name}_words"], arrays[f"{name}_starts"], arrays[f"{name}_items"])


def _load_table(arrays: dict[str, Any], name: str) -> GramTable:
    places = (arrays[f"{name}_units"], arrays[f"{name}_offsets"])
    return restore_table(
        int(arrays[f"{name}_length"]), arrays[f"{name}_keys"], arrays[f"{name}_starts"], places
    )
