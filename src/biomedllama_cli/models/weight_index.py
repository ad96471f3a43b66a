"""The index of a model folder whose weights are in several files: it may name only files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from biomedllama_cli.errors import ModelError

_INDEX = ".index.json"
_ENDINGS = (".safetensors", ".bin")
_LARGEST_INDEX = 256 << 20  # bytes; that of the largest published models has less than a hundredth
_TAMPERED = "The folder is broken or was tampered with: take another copy."


def check_weight_index(folder: Path) -> None:
    """Check that the weights of a folder lie in it, before anything that an index of it names is opened.

    Every index is looked at, whatever its name: a configuration may say which of them is read.

    Raises:
        ModelError: an index is malformed, or names a file elsewhere or of another kind.
    """
    for path in sorted(folder.glob(f"*{_INDEX}")):
        ending = next((ending for ending in _ENDINGS if path.name.endswith(ending + _INDEX)), None)
        if ending is None or not path.is_file():
            continue
        for file in _read_files(path):
            if not _is_beside(file, ending):
                raise ModelError(
                    f"model: {path} names {str(file)[:80]!r}, but may only name {ending} files beside it.",
                    hint=_TAMPERED,
                )


def check_named_weights(config: Any, source: str) -> None:
    """Check the file of weights that the configuration of a folder names, where it does.

    Raises:
        ModelError: it is no safetensors file or index beside it.
    """
    name = getattr(config, "transformers_weights", None)
    if name is None or _is_beside(name, ".safetensors") or _is_beside(name, f".safetensors{_INDEX}"):
        return
    raise ModelError(
        f"model: the configuration of {source} has its weights in {str(name)[:80]!r}, but may only name a safetensors "
        "file beside it.",
        hint=_TAMPERED,
    )


def _is_beside(file: object, ending: str) -> bool:
    return isinstance(file, str) and Path(file).name == file and "\\" not in file and file.endswith(ending)


def _read_files(path: Path) -> set[object]:
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise ValueError("it is too large")
        return set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"model: {path} is no index of weights: {error!r:.200}.", hint="Take another copy of the folder."
        ) from error
