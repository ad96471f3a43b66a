"""The facts that let somebody else repeat a result: versions and items (weights: models/identity.py)."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from biomedllama_cli import __version__
from biomedllama_cli.tasks.question import Document, Question

_PACKAGES = ("torch", "transformers", "lm-eval", "datasets", "tokenizers", "sentencepiece", "numpy", "scipy")


def collect_versions() -> dict[str, str]:
    """Return the versions of this package, Python and what takes part in the numbers."""
    versions = {"biomedllama-cli": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def hash_items(items: Sequence[Question] | Sequence[Document]) -> str:
    """Return the SHA-256 over the content of all items in their order, wherever they came from.

    What an item is grouped by (its subject, whether a corpus holds it) is not part of its content.
    """
    digest = hashlib.sha256()
    for item in items:
        content = {name: value for name, value in vars(item).items() if name != "groups"}
        digest.update(json.dumps(content, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
