"""How strict the licence of a source is: an ordered list, and the words people write licences in."""

from __future__ import annotations

import re
from collections.abc import Iterable

from biomedllama_cli.corpus.licences import classify_link, classify_prose

UNKNOWN, ACADEMIC = "unknown", "academic only"
ORDER = (
    "public domain",
    "CC0",
    "MIT",
    "BSD",
    "Apache-2.0",
    "CC BY",
    "CC BY-SA",
    "CC BY-ND",
    "CC BY-NC",
    "CC BY-NC-SA",
    "CC BY-NC-ND",
    ACADEMIC,
    UNKNOWN,
)
"""Licences from the freest to the strictest; what is not known may forbid anything and is the strictest."""
ANY_USE = ORDER[: ORDER.index("CC BY") + 1]
"""Licences that allow any use, commercial use and adaptations included, and bind nobody's own work."""
HUB_NAMES = {
    "CC0": "cc0-1.0",
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
    "CC BY": "cc-by-4.0",
    "CC BY-SA": "cc-by-sa-4.0",
    "CC BY-ND": "cc-by-nd-4.0",
    "CC BY-NC": "cc-by-nc-4.0",
    "CC BY-NC-SA": "cc-by-nc-sa-4.0",
    "CC BY-NC-ND": "cc-by-nc-nd-4.0",
}
"""What model hubs call them in the header of a card; those that are missing are `other` there."""
_FREE = (
    ("MIT", re.compile(r"(?:the )?mit(?: license| licence)?(?: \(mit\))?", re.IGNORECASE)),
    ("BSD", re.compile(r"(?:new |modified )?bsd(?:[ -][234]\W?clause)?(?: licen[cs]e)?", re.IGNORECASE)),
    ("Apache-2.0", re.compile(r"apache(?: licen[cs]e)?,?[ -]?(?:version )?v?2(?:\.0)?", re.IGNORECASE)),
)
_ACADEMIC = re.compile(
    r"\b(?:academic|research)\b(?:[ -]\w+){0,3}[ -]only\b|\bonly for academic", re.IGNORECASE
)


def classify_licence(text: str) -> str:
    """Return the licence of `ORDER` that a name, an address or a hub's id means; `unknown` for anything else.

    >>> classify_licence("cc-by-nc-4.0"), classify_licence("CC BY-NC 4.0"), classify_licence("Apache License 2.0")
    ('CC BY-NC', 'CC BY-NC', 'Apache-2.0')
    >>> classify_licence("academic use only"), classify_licence("ask our lawyers"), classify_licence("")
    ('academic only', 'unknown', 'unknown')
    >>> classify_licence("https://creativecommons.org/licenses/by-sa/4.0/")
    'CC BY-SA'
    """
    words = " ".join(text.split())
    named = [code for code in ORDER if code.casefold() == words.casefold()]
    named += [code for code, pattern in _FREE if pattern.fullmatch(words)]
    if not named and _ACADEMIC.search(words):
        named = [ACADEMIC]
    if not named:
        link = classify_link(words)
        found = {link} if link else classify_prose(words)
        # Two licences named at once contradict each other: neither is known to hold.
        named = [code for code in found if code in ORDER] if len(found) == 1 else []
    return named[0] if named else UNKNOWN


def find_strictest(licences: Iterable[str]) -> str:
    """Return the strictest of some licences, each a name of `ORDER` or other words.

    >>> find_strictest(["MIT", "CC BY-NC 4.0", "CC BY"]), find_strictest(["MIT", "whatever"]), find_strictest([])
    ('CC BY-NC', 'unknown', 'public domain')
    """
    return max(map(classify_licence, licences), key=ORDER.index, default=ORDER[0])


def allows_any_use(licence: str) -> bool:
    """Return whether a licence allows any use.

    >>> allows_any_use("Apache-2.0"), allows_any_use("CC BY-NC"), allows_any_use("unknown")
    (True, False, False)
    """
    return classify_licence(licence) in ANY_USE
