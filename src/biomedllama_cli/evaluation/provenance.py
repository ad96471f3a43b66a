"""The facts that let somebody else repeat a result: weights, versions, items."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from biomedllama_cli import __version__
from biomedllama_cli.tasks.question import Document, Question
from biomedllama_cli.tasks.records import file_sha256

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


def hash_weights(folder: Path) -> str | None:
    """Return one SHA-256 over the weight files of a model folder, or None where there is none.

    Hashed are the lines `name sha256` of its .safetensors files (else .bin files) in order of name.
    """
    for pattern in ("*.safetensors", "*.bin"):
        if files := sorted(folder.glob(pattern)):
            lines = "".join(f"{file.name} {file_sha256(file)}\n" for file in files)
            return hashlib.sha256(lines.encode()).hexdigest()
    return None


def hash_items(items: Sequence[Question] | Sequence[Document]) -> str:
    """Return the SHA-256 over the content of all items in their order, wherever they came from.

    What an item is grouped by (its subject, whether a corpus holds it) is not part of its content.
    """
    digest = hashlib.sha256()
    for item in items:
        content = {name: value for name, value in vars(item).items() if name != "groups"}
        digest.update(json.dumps(content, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def locate_model(source: str, revision: str | None) -> Path | None:
    """Return the folder a loaded model's files are in: the given one, or the hub cache's; None if neither.

    Args:
        source: folder or hub id.
        revision: commit of the hub repository.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None
