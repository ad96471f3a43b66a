"""What is told of a passage beside an answer that may rest on it."""

from __future__ import annotations

from typing import Any

from biomedllama_cli.chat.conversation import Passage


def describe_passage(number: int, passage: Passage) -> dict[str, Any]:
    """Return a numbered passage without its text, as JSON can say it.

    >>> describe_passage(1, Passage("Iron rusts.", "pmid:7.1", pmid=7, score=1.23456))["score"]
    1.2346
    """
    return {
        "number": number,
        "document_id": passage.document_id,
        "pmid": passage.pmid,
        "pmcid": passage.pmcid,
        "doi": passage.doi,
        "title": passage.title,
        "licence": passage.licence,
        "year": passage.year,
        "flags": list(passage.flags),
        "source": passage.source,
        "score": round(passage.score, 4),
    }
