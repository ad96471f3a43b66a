"""The index of a model folder whose weights are in several files: it may name only files beside it."""

from __future__ import annotations

import json
from pathlib import Path

from biomedllama_cli.errors import ModelError

_INDEXES = {"model.safetensors.index.json": ".safetensors", "pytorch_model.bin.index.json": ".bin"}
_LARGEST_INDEX = 256 << 20  # bytes; that of the largest published models has less than a hundredth


def check_weight_index(folder: Path) -> None:
    """Check that the weights of a folder lie in it, before anything that its index names is opened.

    Raises:
        ModelError: an index is malformed, or names a file elsewhere or of another kind.
    """
    for name, ending in _INDEXES.items():
        path = folder / name
        if not path.is_file():
            continue
        for file in _read_files(path):
            if (
                not isinstance(file, str)
                or Path(file).name != file
                or "\\" in file
                or not file.endswith(ending)
            ):
                raise ModelError(
                    f"model: {path} names {str(file)[:80]!r}, but may only name {ending} files beside it.",
                    hint="The folder is broken or was tampered with: take another copy.",
                )


def _read_files(path: Path) -> set[object]:
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise ValueError("it is too large")
        return set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"model: {path} is no index of weights: {error!r:.200}.", hint="Take another copy of the folder."
        ) from error
