"""What records say of each other, decided over the whole input: newest versions, deletions, retractions, twins.

A *citation* is a PubMed record, an *article* one of PubMed Central; the two are *twins* when they carry the same
PMID or the same PMCID. A record that was left out (no abstract, say) still replaces, withdraws and licenses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus import reasons
from biomedllama_cli.corpus.buckets import MAX_OPEN_FILES, Buckets, choose_bucket, find_group_starts
from biomedllama_cli.corpus.disk import map_new_file
from biomedllama_cli.corpus.links_rows import (
    ARTICLE,
    CITATION,
    CONTAMINATED,
    DELETION,
    LINK,
    PERMITTED,
    RETRACTED,
    WITHDRAWAL,
    LinkWriter,
)

__all__ = ["LINK", "LinkWriter", "apply_links"]

# Bits of a record's state; the lowest three are those of its row.
_STALE = 8  # replaced by a newer record, or deleted
_TWIN_PERMITTED = 16

_ENTRY = np.dtype(
    [("key", "<u8"), ("document", "<i8"), ("record", "<u4"), ("version", "<u4"), ("kind", "u1")]
)
"""A row under one of its identifiers: `record` is the row of the record it belongs to, `document` its number in the
corpus or -1."""

_SPACES = ("pmid", "pmcid", "doi")
_CHUNK_ROWS = 1 << 16
_BUCKET_ROWS = 500_000  # 12 MB, some 50 MB while they are sorted
_MAX_BUCKETS = MAX_OPEN_FILES // len(_SPACES)


@dataclass(frozen=True)
class _Work:
    """What the steps share: a state per row, a drop reason per document, and the rows under each identifier."""

    state: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint8]
    buckets: dict[str, Buckets]

    def iter_groups(self, space: str) -> Iterator[npt.NDArray[Any]]:
        """Yield the entries of each bucket, sorted by key and, within a key, in the order of the input."""
        for entries in self.buckets[space].iter_rows(remove=False):
            yield entries[np.argsort(entries["key"], kind="stable")]

    def drop(self, documents: npt.NDArray[np.int64], code: int) -> None:
        """Give documents a drop reason; -1 is none, and a first reason stays."""
        documents = documents[documents >= 0]
        self.flags[documents[self.flags[documents] == reasons.ALIVE]] = code


def apply_links(
    link_files: Sequence[Path],
    document_counts: Sequence[int],
    flags: npt.NDArray[np.uint8],
    scratch: Path,
    *,
    accept_abstract_copyright: bool,
    gate_abstracts: bool,
    drop_retracted: bool,
    drop_contaminated_twins: bool = False,
) -> None:
    """Set the drop reason of documents that other records decide about.

    In this order, and a first reason stays: records replaced by a newer version of the same citation or article,
    or deleted by PubMed after them; what a notice withdraws or a twin says is retracted; abstracts without a
    full text whose licence permits training; twins of contaminated documents; abstracts whose full text stays.

    Memory: 2 bytes per record (one of them the flags), both in mapped files, and the largest bucket (at most
    0.5 million records up to 85 million, then 1/170 of them, at about 100 bytes each). Disk: at most 76 bytes
    per record. The result does not depend on how the input is cut into tasks.

    Args:
        link_files: rows of LINK, a file per task, in input order.
        document_counts: documents of each task.
        flags: a drop reason per document of the corpus, changed in place.
        scratch: folder for files of this step, removed at its end.
        accept_abstract_copyright: keep abstracts that no licence covers.
        gate_abstracts: whether there is a licence gate at all.
        drop_retracted: whether retracted documents go.
        drop_contaminated_twins: whether a twin of a contaminated document goes too.
    """
    rows = sum(path.stat().st_size for path in link_files) // LINK.itemsize
    assert sum(document_counts) == len(flags), "flags and tasks count documents differently"
    if rows == 0:
        return
    assert rows < 2**32, "rows are numbered in 32 bits"
    scratch.mkdir(parents=True, exist_ok=True)
    state = map_new_file(scratch / "state.u8", rows)
    count = max(1, min(-(-rows // _BUCKET_ROWS), _MAX_BUCKETS))
    work = _Work(state, flags, {space: Buckets(scratch / space, count, _ENTRY) for space in _SPACES})
    _deal(link_files, document_counts, work, count)
    _settle_citations(work)
    _settle_articles(work)
    for space in _SPACES:
        _spread_withdrawals(work, space)
    for space in ("pmid", "pmcid", "pmid"):  # again: a citation may have passed on what its PMCID told it
        _spread_to_twins(work, space)
    _drop_by_state(
        _iter_rows(link_files, document_counts),
        work,
        retracted=drop_retracted,
        unlicensed=gate_abstracts and not accept_abstract_copyright,
        contaminated=drop_contaminated_twins,
    )
    _drop_abstracts_of_full_texts(work)
    del state
    for space, buckets in work.buckets.items():
        buckets.remove()
        (scratch / space).rmdir()
    (scratch / "state.u8").unlink()


def _iter_rows(
    link_files: Sequence[Path], document_counts: Sequence[int]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (number of the first row, rows), some at a time, with documents numbered over the whole corpus."""
    number = first_document = 0
    for path, documents in zip(link_files, document_counts, strict=True):
        with path.open("rb") as file:
            while data := file.read(_CHUNK_ROWS * LINK.itemsize):
                rows = np.frombuffer(data, LINK).copy()
                assert rows["document"].max(initial=-1) < documents, f"{path}: a document that is not there"
                rows["document"][rows["document"] >= 0] += first_document
                yield number, rows
                number += len(rows)
        first_document += documents


def _deal(link_files: Sequence[Path], document_counts: Sequence[int], work: _Work, count: int) -> None:
    """Deal the rows into buckets by each of their identifiers, and start each row's state with its own bits."""
    owner = 0
    with work.buckets["pmid"], work.buckets["pmcid"], work.buckets["doi"]:
        for number, rows in _iter_rows(link_files, document_counts):
            work.state[number : number + len(rows)] = rows["bits"]
            entries = np.empty(len(rows), _ENTRY)
            for name in ("document", "version", "kind"):
                entries[name] = rows[name]
            # What a notice withdraws follows the notice, possibly in the next chunk.
            numbers = number + np.arange(len(rows))
            owners = np.maximum.accumulate(np.where(rows["kind"] == WITHDRAWAL, owner, numbers))
            entries["record"], owner = owners, int(owners[-1])
            for space in _SPACES:
                named = rows[space] != 0
                chosen = entries[named]
                chosen["key"] = rows[space][named]
                work.buckets[space].deal(chosen, choose_bucket(chosen["key"], count))


def _settle_citations(work: _Work) -> None:
    """Of the records of one PMID that come after its last deletion, the newest counts."""
    for entries in work.iter_groups("pmid"):
        entries = entries[(entries["kind"] == CITATION) | (entries["kind"] == DELETION)]
        starts = find_group_starts(entries["key"])
        if len(entries) == 0:
            continue
        deletions = np.where(entries["kind"] == DELETION, entries["record"].astype(np.int64), -1)
        last = np.repeat(np.maximum.reduceat(deletions, starts), np.diff(np.append(starts, len(entries))))
        citation = entries["kind"] == CITATION
        deleted = citation & (entries["record"] < last)
        _retire(work, entries[deleted], reasons.DELETED_CITATION)
        _retire_older(work, entries[citation & ~deleted])


def _settle_articles(work: _Work) -> None:
    """Of the records of one PMCID the newest counts."""
    for entries in work.iter_groups("pmcid"):
        _retire_older(work, entries[entries["kind"] == ARTICLE])


def _retire_older(work: _Work, entries: npt.NDArray[Any]) -> None:
    """Keep, of the entries of each key, the highest version, and the last of these in the input."""
    entries = entries[np.lexsort((entries["record"], entries["version"], entries["key"]))]
    _retire(work, entries[:-1][entries["key"][:-1] == entries["key"][1:]], reasons.SUPERSEDED_VERSION)


def _retire(work: _Work, entries: npt.NDArray[Any], code: int) -> None:
    work.state[entries["record"]] |= np.uint8(_STALE)
    work.drop(entries["document"], code)


def _spread_withdrawals(work: _Work, space: str) -> None:
    """Retract what notices that still count name by this identifier."""
    for entries in work.iter_groups(space):
        entries = entries[(work.state[entries["record"]] & _STALE) == 0]
        withdrawal = entries["kind"] == WITHDRAWAL
        if withdrawal.any():
            named = np.isin(entries["key"], entries["key"][withdrawal])
            work.state[entries["record"][named & ~withdrawal & (entries["kind"] != DELETION)]] |= RETRACTED


def _spread_to_twins(work: _Work, space: str) -> None:
    """Tell each record of an identifier what the others of it are: retracted, contaminated, permitted."""
    for entries in work.iter_groups(space):
        entries = _choose_current(work, entries)
        if len(entries) == 0:
            continue
        starts = find_group_starts(entries["key"])
        own = work.state[entries["record"]]
        shared = np.repeat(np.bitwise_or.reduceat(own, starts), np.diff(np.append(starts, len(entries))))
        told = own | (shared & (RETRACTED | CONTAMINATED))
        told[(shared & PERMITTED) != 0] |= _TWIN_PERMITTED
        work.state[entries["record"]] = told


def _choose_current(work: _Work, entries: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the entries that stand for records and are not replaced or deleted."""
    entries = entries[(entries["kind"] != WITHDRAWAL) & (entries["kind"] != DELETION)]
    current: npt.NDArray[Any] = entries[(work.state[entries["record"]] & _STALE) == 0]
    return current


def _drop_by_state(
    chunks: Iterator[tuple[int, npt.NDArray[Any]]],
    work: _Work,
    *,
    retracted: bool,
    unlicensed: bool,
    contaminated: bool,
) -> None:
    """Drop the documents of records by what is known of them now."""
    for number, rows in chunks:
        state = work.state[number : number + len(rows)]
        if retracted:
            work.drop(rows["document"][(state & RETRACTED) != 0], reasons.RETRACTED)
        if unlicensed:
            silent = (rows["kind"] == CITATION) & ((state & _TWIN_PERMITTED) == 0)
            work.drop(rows["document"][silent], reasons.ABSTRACT_WITHOUT_LICENCE)
        if contaminated:
            work.drop(rows["document"][(state & CONTAMINATED) != 0], reasons.CONTAMINATED_TWIN)


def _drop_abstracts_of_full_texts(work: _Work) -> None:
    """Drop the abstract of each article that stays: nobody should read it twice."""
    for space in ("pmid", "pmcid"):
        for entries in work.iter_groups(space):
            entries = _choose_current(work, entries)
            article = (entries["kind"] == ARTICLE) & (entries["document"] >= 0)
            stays = np.zeros(len(entries), np.bool_)
            stays[article] = work.flags[entries["document"][article]] == reasons.ALIVE
            twins = (entries["kind"] == CITATION) & np.isin(entries["key"], entries["key"][stays])
            work.drop(entries["document"][twins], reasons.FULL_TEXT_KEPT)
