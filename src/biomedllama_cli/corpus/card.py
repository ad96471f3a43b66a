"""The data card of a corpus: what a reader of a paper, a lawyer and a later self want to know of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from biomedllama_cli.corpus.card_facts import CardFacts, Example
from biomedllama_cli.corpus.card_markdown import render_card
from biomedllama_cli.corpus.card_plot import plot_lengths
from biomedllama_cli.corpus.card_text import UNNAMED, UNQUOTED, list_notices, shorten

__all__ = ["CardFacts", "Example", "write_card"]

SCHEMA_VERSION = "biomedllama.card/1"
CARD_FILE, CARD_JSON_FILE, LENGTHS_FILE = "DATA_CARD.md", "data_card.json", "document_lengths.png"
EXAMPLES_PER_REASON = 3
EXAMPLE_CHARACTERS = 300


def write_card(folder: Path, facts: CardFacts) -> tuple[Path, ...]:
    """Write the data card (Markdown, JSON and a histogram) into a corpus folder, and return the files.

    All but the manifest's time and command line depends on the corpus alone, byte for byte.

    Args:
        folder: the corpus, not published yet.
        facts: what to say.
    """
    examples = {reason: _trim(reason, facts.examples[reason]) for reason in sorted(facts.examples)}
    facts = facts.model_copy(update={"examples": examples})
    card, data, picture = (folder / name for name in (CARD_FILE, CARD_JSON_FILE, LENGTHS_FILE))
    # A file name may hold bytes that are no UTF-8: they must not cost the card.
    described = json.dumps(_describe(facts), indent=2, ensure_ascii=False)
    data.write_text(described + "\n", encoding="utf-8", errors="replace", newline="\n")
    plot_lengths(facts.counts.lengths, picture)
    text = render_card(facts, LENGTHS_FILE)
    card.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return card, data, picture


def _trim(reason: str, examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """Return the first few examples, cut short; what may not be repeated is not quoted."""
    return tuple(
        example.model_copy(
            update={
                "where": shorten(example.where, EXAMPLE_CHARACTERS),
                "title": "" if reason in UNNAMED else shorten(example.title, EXAMPLE_CHARACTERS),
                "text": "" if reason in UNQUOTED else shorten(example.text, EXAMPLE_CHARACTERS),
            }
        )
        for example in examples[:EXAMPLES_PER_REASON]
    )


def _describe(facts: CardFacts) -> dict[str, Any]:
    manifest = facts.manifest.model_dump(mode="json", exclude={"schema_version", "files"})
    return {
        "schema_version": SCHEMA_VERSION,
        **manifest,
        **facts.counts.model_dump(mode="json"),
        "examples": {
            reason: [example.model_dump(mode="json") for example in examples]
            for reason, examples in facts.examples.items()
        },
        "notices": list_notices(facts.manifest),
    }
