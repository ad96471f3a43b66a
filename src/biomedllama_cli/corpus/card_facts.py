"""What a data card is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.corpus.card_counts import Counts
from biomedllama_cli.corpus.manifest import CorpusManifest


class Example(BaseModel):
    """A document that was left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    where: str
    """File and place."""
    pmid: int | None = None
    """PubMed's number."""
    pmcid: str | None = None
    """PubMed Central's number, with `PMC`."""
    title: str = ""
    """Its title; empty where it was left out for a benchmark item."""
    text: str = ""
    """How it begins, or what is wrong with it; empty where it was left out for its licence or a benchmark item."""


class CardFacts(BaseModel):
    """Everything a data card is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    manifest: CorpusManifest
    """The corpus, but for its `files`."""
    counts: Counts
    """What the kept documents are."""
    examples: dict[str, tuple[Example, ...]] = {}
    """Some documents left out, by reason."""
