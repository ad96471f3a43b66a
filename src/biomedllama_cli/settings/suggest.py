"""Did you mean ...?"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def suggest(word: str, candidates: Iterable[str]) -> str:
    """Return a hint naming the nearest candidate, or an empty string.

    A candidate whose last part is the word itself (a setting named without its section) comes first.

    >>> suggest("sede", ["seed", "optimizer.weight_decay"])
    'Did you mean seed?'
    >>> suggest("weight_decay", ["seed", "optimizer.weight_decay"])
    'Did you mean optimizer.weight_decay?'
    >>> suggest("xyz", ["seed"])
    ''
    """
    known = list(candidates)
    last = {candidate: _last_part(candidate) for candidate in known}
    same = [candidate for candidate in known if last[candidate] == _last_part(word)]
    near = same or difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    if not near:
        nearest = difflib.get_close_matches(_last_part(word), list(last.values()), n=1, cutoff=0.6)
        near = [candidate for candidate in known if last[candidate] in nearest]
    return f"Did you mean {near[0]}?" if near else ""


def _last_part(name: str) -> str:
    return re.split(r"\.|__", name)[-1]
