"""Numbers and names by which papers are known."""

from __future__ import annotations

import re

_DOI = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?(10\.\d{4,9}/\S+)", re.IGNORECASE)


def parse_pmid(text: str | None) -> int | None:
    """Return a positive number of at most nine digits, or None.

    >>> parse_pmid(" 123 "), parse_pmid("-1"), parse_pmid("0"), parse_pmid("١٢"), parse_pmid("1" * 30)
    (123, None, None, None, None)
    """
    text = (text or "").strip()
    return int(text) or None if text.isascii() and text.isdigit() and len(text) <= 9 else None


def normalise_doi(text: str) -> str | None:
    """Return a DOI in lower case without what may stand before it, or None where there is none.

    >>> normalise_doi("https://doi.org/10.1371/Journal.PONE.0000217")
    '10.1371/journal.pone.0000217'
    >>> normalise_doi("no doi") is None
    True
    """
    found = _DOI.fullmatch(text.strip())
    return found[1].lower() if found else None
