"""What tells one vocabulary from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable


def vocabulary_fingerprint(pieces: Iterable[tuple[int, str]], bos_id: int | None, eos_id: int | None) -> str:
    """Return the SHA-256 over the (id, piece) pairs in order of id, and the special ids.

    >>> a = vocabulary_fingerprint([(0, "<s>"), (1, "a")], 0, 1)
    >>> a == vocabulary_fingerprint([(1, "a"), (0, "<s>")], 0, 1)
    True
    >>> a == vocabulary_fingerprint([(0, "<s>"), (1, "b")], 0, 1)
    False
    """
    digest = hashlib.sha256()
    for token_id, piece in sorted(pieces):
        digest.update(json.dumps([token_id, piece]).encode() + b"\n")
    digest.update(json.dumps({"bos": bos_id, "eos": eos_id}).encode())
    return digest.hexdigest()
