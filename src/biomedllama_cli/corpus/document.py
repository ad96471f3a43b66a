"""What flows through the stages of a corpus: documents, citations that are withdrawn, and what was left out and why."""

from __future__ import annotations

from dataclasses import dataclass

FLAGS = (
    "retracted",
    "retraction_notice",
    "expression_of_concern",
    "correction",
    "author_manuscript",
    "historical_ocr",
    "preprint",
    "licence_conflict",
    "open_access",
)
"""What a source may say of a document, beside its licence."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of a document beside its text.

    Attributes:
        pmid: PubMed's number, or None.
        version: version of the citation (PubMed) or of the article (PMC), counted from 1.
        pmcid: PubMed Central's number, without `PMC`, or None.
        doi: DOI in lower case, without `https://doi.org/` or `doi:`, or None.
        title: its title as plain text.
        licence: one of `licences.CODES`, or None when none is stated or what is stated contradicts itself.
        year: year of publication, or None.
        language: ISO 639-1 code in lower case where there is one (`en`), else the source's own code, or None.
        publication_types: as the source names them (`Review`, `research-article`).
        mesh: MeSH descriptor names, in order.
        flags: of `FLAGS`.
        retracts: what a retraction notice withdraws: `pmid:NUMBER`, `pmcid:NUMBER` or `doi:NAME` each.
    """

    pmid: int | None = None
    version: int = 1
    pmcid: int | None = None
    doi: str | None = None
    title: str = ""
    licence: str | None = None
    year: int | None = None
    language: str | None = None
    publication_types: tuple[str, ...] = ()
    mesh: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()
    retracts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One readable record of the input.

    Attributes:
        text: its text.
        subset: its `meta.pile_set_name`, or None.
        where: file and line (or the like), for messages.
        metadata: what the source says of it, or None when the source says nothing.
    """

    text: str
    subset: str | None
    where: str
    metadata: Metadata | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that does not become a document.

    Attributes:
        reason: snake_case key under which the manifest counts it.
        where: file and line.
        problem: for a record that could not be read, a sentence after "FILE, line N: "; empty for one that
            was readable and is not wanted.
        metadata: what the source says of it: a record that is left out still replaces, retracts and licenses.
        text: its text, or the beginning of it, for the examples of the data card.
    """

    reason: str
    where: str
    problem: str = ""
    metadata: Metadata | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A citation that PubMed withdrew: earlier records of it in the input do not count.

    Attributes:
        pmid: its number.
        where: file and position.
    """

    pmid: int
    where: str


Item = Record | Dropped | Deletion
"""What a source yields."""
