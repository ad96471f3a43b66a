"""Numbers as people read them."""

from __future__ import annotations


def name_count(number: int, noun: str) -> str:
    """Return a number and its noun.

    >>> name_count(1, "document"), name_count(2_000, "document")
    ('1 document', '2,000 documents')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
