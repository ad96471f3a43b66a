"""MD5 sidecars: `FILE.md5` beside a file, as PubMed's server gives them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_MAX_BYTES = 1 << 16
_OPENSSL = re.compile(r"MD5\s*\((?P<name>[^)]*)\)\s*=\s*(?P<md5>[0-9a-fA-F]{32})")
_MD5SUM = re.compile(r"\\?(?P<md5>[0-9a-fA-F]{32})(?:\s+\*?(?P<name>\S.*))?")


def parse_md5(text: str, name: str) -> str | None:
    """Return the MD5 that a sidecar gives for a file, in lower case, or None when it gives none.

    >>> parse_md5("MD5(pubmed26n0001.xml.gz)= D41D8CD98F00B204E9800998ECF8427E", "pubmed26n0001.xml.gz")
    'd41d8cd98f00b204e9800998ecf8427e'
    >>> parse_md5("d41d8cd98f00b204e9800998ecf8427e  ./a.xml.gz", "a.xml.gz")
    'd41d8cd98f00b204e9800998ecf8427e'
    >>> parse_md5("d41d8cd98f00b204e9800998ecf8427e  b.xml.gz", "a.xml.gz") is None
    True
    """
    for line in text.splitlines():
        found = _OPENSSL.fullmatch(line.strip()) or _MD5SUM.fullmatch(line.strip())
        if found and (found["name"] is None or Path(found["name"].strip()).name == name):
            return found["md5"].lower()
    return None


def find_md5_problem(path: Path) -> str | None:
    """Return what is wrong with a file that has a sidecar, as the end of a sentence, or None.

    A file without a sidecar has no problem.
    """
    sidecar = path.with_name(f"{path.name}.md5")
    if not sidecar.is_file():
        return None
    with sidecar.open("rb") as stream:
        text = stream.read(_MAX_BYTES).decode("latin-1")
    expected = parse_md5(text, path.name)
    if expected is None:
        return f"its sidecar {sidecar.name} holds no MD5 of it"
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        return f"its MD5 is {found}, but its sidecar {sidecar.name} says {expected}: download it again"
    return None
