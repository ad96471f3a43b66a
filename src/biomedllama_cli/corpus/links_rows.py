"""What a record says that decides about other records: one small row each, written by every task."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

import numpy as np

from biomedllama_cli.corpus.document import Deletion, Item, Record

LINK = np.dtype(
    [
        ("pmid", "<u8"),
        ("pmcid", "<u8"),
        ("doi", "<u8"),
        ("document", "<i8"),
        ("position", "<u4"),
        ("version", "<u4"),
        ("kind", "u1"),
        ("bits", "u1"),
    ]
)
"""One row of `links.bin`, in the order of the input.

The identifiers are 0 where there is none; the DOI is a hash (`hash_doi`). `document` counts the documents of the
task, -1 for a record that was left out; `position` counts the task's records of any fate, and is the same in all
rows of one record.
"""

OTHER, CITATION, ARTICLE, DELETION, WITHDRAWAL = range(5)
"""Kinds of rows: a document of a source without versions, a PubMed record, a PMC article, a citation deleted by
PubMed, and what a retraction notice withdraws (a row of its own after the notice's)."""

RETRACTED, PERMITTED, CONTAMINATED = 1, 2, 4
"""Bits of a row: retracted by its own flag; an article whose licence passes the gate; holds benchmark items."""

_KINDS = {"pubmed": CITATION, "pmc": ARTICLE}
_ROW = struct.Struct("<QQQqIIBB")
_LARGEST = 2**64 - 1
_LARGEST_VERSION = 2**32 - 1
assert _ROW.size == LINK.itemsize


def hash_doi(doi: str) -> int:
    """Return the 64-bit BLAKE2b hash of a DOI, whatever its case and prefix; 0 for none.

    >>> hash_doi("https://doi.org/10.1000/ABC") == hash_doi("doi:10.1000/abc") != hash_doi("10.1000/xyz")
    True
    >>> hash_doi(" ")
    0
    """
    name = doi.strip().lower()
    for prefix in ("https://", "http://", "dx.doi.org/", "doi.org/", "doi:"):
        name = name.removeprefix(prefix)
    name = name.strip()
    if not name:
        return 0
    data = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


class LinkWriter:
    """Collect the rows of a task's records, packed at once: a corpus has tens of millions of them."""

    def __init__(self) -> None:
        self._rows: list[bytes] = []

    def add(
        self,
        item: Item,
        document: int,
        position: int,
        *,
        permitted: bool,
        contaminated: bool,
        source: str,
    ) -> None:
        """Note a record; one without metadata decides about no other and leaves no row.

        Args:
            item: the record, kept or left out.
            document: its number among the task's documents; what is no `Record` counts as left out.
            position: its number among the task's records of any fate.
            permitted: whether its licence passes the gate.
            contaminated: whether it holds benchmark items.
            source: where it comes from; `pubmed` and `pmc` have versions and twins.
        """
        if isinstance(item, Deletion):
            self._rows.append(_ROW.pack(_bound(item.pmid), 0, 0, -1, position, 0, DELETION, 0))
            return
        metadata = item.metadata
        if metadata is None:
            return
        kind = _KINDS.get(source, OTHER)
        bits = RETRACTED if "retracted" in metadata.flags else 0
        if permitted and kind == ARTICLE:
            bits |= PERMITTED
        if contaminated:
            bits |= CONTAMINATED
        self._rows.append(
            _ROW.pack(
                _bound(metadata.pmid),
                _bound(metadata.pmcid),
                hash_doi(metadata.doi) if metadata.doi else 0,
                document if isinstance(item, Record) else -1,
                position,
                min(max(metadata.version, 0), _LARGEST_VERSION),
                kind,
                bits,
            )
        )
        for keys in _iter_withdrawn(metadata.retracts):
            self._rows.append(_ROW.pack(*keys, -1, position, 0, WITHDRAWAL, 0))

    def to_bytes(self) -> bytes:
        """Return the rows added since the last call, as rows of LINK end to end, and forget them."""
        data = b"".join(self._rows)
        self._rows.clear()
        return data


def _bound(number: int | None) -> int:
    """Return an identifier that fits its field; what is no identifier is none."""
    return number if number is not None and 0 < number <= _LARGEST else 0


def _iter_withdrawn(retracts: tuple[str, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield (pmid, pmcid, doi hash), one of them not 0, for each thing a notice withdraws."""
    for target in retracts:
        space, _, name = target.partition(":")
        number = _bound(int(name)) if name.isascii() and name.isdigit() and len(name) <= 20 else 0
        if space == "pmid" and number:
            yield number, 0, 0
        elif space == "pmcid" and number:
            yield 0, number, 0
        elif space == "doi" and (hashed := hash_doi(name)):
            yield 0, 0, hashed
