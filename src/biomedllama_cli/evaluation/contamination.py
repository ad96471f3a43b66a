"""Which scored questions a training corpus holds: from what `prepare` found, or by searching the corpus itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from biomedllama_cli.corpus.assembly import DOCUMENT_TABLE_FILE
from biomedllama_cli.corpus.decontamination.build import build_index
from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex
from biomedllama_cli.corpus.decontamination.items import BenchmarkItem, build_item, hash_item
from biomedllama_cli.corpus.decontamination.report import ITEMS_REPORT, LOOKED_FOR_REPORT, UNTESTABLE_REPORT
from biomedllama_cli.corpus.decontamination.screening import find_all_overlaps
from biomedllama_cli.corpus.manifest import MANIFEST_FILE, Corpus, load_corpus
from biomedllama_cli.corpus.stored_documents import StoredTexts
from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import file_sha256

_PUBMEDQA = "pubmedqa"
_BATCH_CHARACTERS = 1 << 21
_HINT = "The copy is damaged: copy the folder again, or run prepare again."

Finding = Literal["clean", "untestable", "contaminated"]
_SEVERITY: tuple[Finding, ...] = ("clean", "untestable", "contaminated")

Advance = Callable[[int], None]
"""Is told how many tokens more were searched."""


@dataclass(frozen=True)
class Contamination:
    """What a corpus holds of some questions, and how that was found out.

    Attributes:
        contaminated: ids of the questions it holds, in their order.
        untestable: ids of those too short, or too common in wording, to be told from other text.
        listed: questions `prepare` had looked for when it made the corpus.
        searched: questions looked for in the corpus' training documents now.
        documents: training documents that were read for that.
        corpus: its folder.
        manifest_sha256: of its manifest, which holds the hashes of all its shards.
    """

    contaminated: tuple[str, ...]
    untestable: tuple[str, ...]
    listed: int
    searched: int
    documents: int
    corpus: str
    manifest_sha256: str

    def facts(self) -> dict[str, Any]:
        """Return which corpus it was and how it was found out, for results."""
        return {
            "path": self.corpus,
            "manifest_sha256": self.manifest_sha256,
            "documents": self.documents,
            "listed": self.listed,
            "searched": self.searched,
            "untestable": len(self.untestable),
        }

    def describe(self) -> str:
        """Return how it was found out, as half a sentence.

        >>> Contamination(("7",), (), 0, 3, documents=20, corpus="c", manifest_sha256="").describe()
        '1 of 3 questions found (3 searched for in 20 training documents), 0 not testable'
        """
        ways = []
        if self.listed:
            ways.append(f"{self.listed:,} looked for by prepare")
        if self.searched:
            ways.append(f"{self.searched:,} searched for in {self.documents:,} training documents")
        return (
            f"{len(self.contaminated):,} of {self.listed + self.searched:,} questions found "
            f"({', '.join(ways)}), {len(self.untestable):,} not testable"
        )


def find_contaminated(
    corpus_folder: Path, items: Sequence[Question], task: str, on_tokens: Advance | None = None
) -> Contamination:
    """Return which questions a corpus made by `prepare` holds.

    A question that `prepare` looked for (`--benchmark`) is known by the hash of its content, whatever its id. If
    documents that hold an item were dropped, it is clean; if they were only reported, it is contaminated as soon as
    one of them was not left out before. All other questions are searched for in the corpus' training documents, decoded
    from its tokens, by the rules of `prepare`: runs of 13 words, near-duplicates, short questions beside their answer,
    and for PubMedQA the PMID. Held-out documents are not trained on and not searched.

    Args:
        corpus_folder: the corpus.
        items: the questions.
        task: name of their task.
        on_tokens: is told the progress of a search.

    Raises:
        DataError: the folder holds no corpus, or its files are damaged.
    """
    corpus = load_corpus(corpus_folder)
    benchmark = _PUBMEDQA if task.startswith(_PUBMEDQA) else task
    # The position stands for the id, which may occur twice.
    wanted = [replace(build_item(benchmark, item), item_id=str(number)) for number, item in enumerate(items)]
    known = _read_findings(corpus)
    findings = {number: known.get(hash_item(item)) for number, item in enumerate(wanted)}
    missing = {number for number, finding in findings.items() if finding is None}
    documents = 0
    if missing:
        searched, documents = _search(corpus, wanted, on_tokens)
        findings |= {number: searched[number] for number in missing}
    return Contamination(
        tuple(item.id for number, item in enumerate(items) if findings[number] == "contaminated"),
        tuple(item.id for number, item in enumerate(items) if findings[number] == "untestable"),
        listed=len(items) - len(missing),
        searched=len(missing),
        documents=documents,
        corpus=str(corpus_folder),
        manifest_sha256=file_sha256(corpus.folder / MANIFEST_FILE),
    )


def _read_findings(corpus: Corpus) -> dict[str, Finding]:
    """Return what `prepare` found of the items it looked for, by the hash of their content."""
    mode = corpus.manifest.decontamination.get("mode", "off")
    # Corpora made before this list was kept are searched like those made without a benchmark.
    if mode == "off" or not (corpus.folder / LOOKED_FOR_REPORT).is_file():
        return {}
    untestable = {_key(line) for line in _iter_lines(corpus.folder / UNTESTABLE_REPORT)}
    kept = (
        {_key(line) for line in _iter_lines(corpus.folder / ITEMS_REPORT) if _was_kept(line)}
        if mode == "report"
        else set()
    )
    findings: dict[str, Finding] = {}
    for line in _iter_lines(corpus.folder / LOOKED_FOR_REPORT):
        key = _key(line)
        finding: Finding = "contaminated" if key in kept else "untestable" if key in untestable else "clean"
        before = findings.get(line["sha256"], "clean")
        findings[line["sha256"]] = max(before, finding, key=_SEVERITY.index)
    return findings


def _key(line: dict[str, Any]) -> tuple[str, str]:
    return line["benchmark"], line["item"]


def _was_kept(line: dict[str, Any]) -> bool:
    """Tell whether some document that holds the item got a number; not all documents are listed."""
    listed = line["documents"]
    return line["count"] > len(listed) or any(document["document"] is not None for document in listed)


def _iter_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})", _HINT) from error


def _search(
    corpus: Corpus, wanted: Sequence[BenchmarkItem], on_tokens: Advance | None
) -> tuple[list[Finding], int]:
    """Look for items in the training documents; return one finding per item, and how many documents there are."""
    index = build_index(wanted, ())
    findings: list[Finding] = ["clean"] * len(wanted)
    for untestable in index.untestable:
        findings[untestable.item] = "untestable"
    for pmid in _list_pmids(corpus, index):
        for number in index.pmids[pmid]:
            findings[number] = "contaminated"
    documents = 0
    for texts, tokens in _iter_texts(corpus):
        for overlaps in find_all_overlaps(index, ((text, None) for text in texts)):
            for overlap in overlaps:
                findings[int(overlap.item_id)] = "contaminated"
        documents += len(texts)
        if on_tokens is not None:
            on_tokens(tokens)
    return findings, documents


def _iter_texts(corpus: Corpus) -> Iterator[tuple[list[str], int]]:
    """Yield the training documents' texts, some megabytes at a time, and the tokens they are made of."""
    stored = StoredTexts(corpus)
    texts: list[str] = []
    characters = tokens = 0
    for shard in corpus.train:
        for document, length in enumerate(np.diff(shard.document_starts)):
            texts.append(stored.read(shard, document))
            characters += len(texts[-1])
            tokens += int(length)
            if characters >= _BATCH_CHARACTERS:
                yield texts, tokens
                texts, characters, tokens = [], 0, 0
    if texts:
        yield texts, tokens


def _list_pmids(corpus: Corpus, index: BenchmarkIndex) -> set[int]:
    """Return the PMIDs of items that are those of training documents."""
    path = corpus.folder / DOCUMENT_TABLE_FILE
    if not index.pmids or not path.is_file():
        return set()
    found: set[int] = set()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["pmid", "split"]):
            for pmid, split in zip(batch["pmid"].to_pylist(), batch["split"].to_pylist(), strict=True):
                if split == "train" and pmid in index.pmids:
                    found.add(pmid)
    return found
