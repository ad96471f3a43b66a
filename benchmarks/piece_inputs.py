"""What a piece of a study reads: the contents that its arguments name, so that a finished piece is known by them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

from biomedllama_cli.models.identity import hash_weights
from biomedllama_cli.tasks.records import file_sha256

MIXTURE_OPTION = "--mixture"


def hash_inputs(arguments: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of all files, and of the weights in all model folders, that some arguments name.

    A mixture's own sources are among them. What does not exist, and what is no path, has no hash.

    Args:
        arguments: of a command; a path stands as PATH or NAME=PATH.
    """
    words = list(arguments)
    if MIXTURE_OPTION in words:
        mixture = json.loads(Path(words[words.index(MIXTURE_OPTION) + 1]).read_text(encoding="utf-8"))
        words += [source["path"] for source in mixture["sources"]]
    hashes = {}
    for word in words:
        path = Path(word)
        if not path.exists():
            path = Path(word.partition("=")[2] or word)
        found = file_sha256(path) if path.is_file() else _hash_model(path.absolute())
        if found is not None:
            hashes[word] = found
    return hashes


@functools.cache
def _hash_model(folder: Path) -> str | None:
    return hash_weights(folder)
