"""Folders that hold an adapter instead of a whole model, as peft writes them, and the base each was trained on.

    adapter_model.safetensors, adapter_config.json      peft's own format, base_model_name_or_path in it
    base_model.json                                     SHA-256 of the base's weights; only in folders of ours

Reads JSON alone; no weights and no slow library are loaded here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.names import is_path

CONFIG_FILE, WEIGHTS_FILE, BASE_FILE = "adapter_config.json", "adapter_model.safetensors", "base_model.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_FOREIGN_WEIGHTS = "adapter_model.bin"


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk.

    Attributes:
        folder: where it is.
        config: content of adapter_config.json.
        base: folder or hub id of the model it was trained on.
        base_sha256: hash of that model's weights when it was trained, or None where nobody wrote it down.
    """

    folder: Path
    config: dict[str, Any]
    base: str
    base_sha256: str | None


def find_adapter(source: str) -> AdapterFolder | None:
    """Return the adapter that a folder holds, or None where `source` is anything else.

    Raises:
        ModelError: the folder is an adapter that cannot be used, or its base is not there.
    """
    folder = Path(source).expanduser()
    if not source or not (folder / CONFIG_FILE).is_file():
        return None
    if any(path.name != WEIGHTS_FILE for path in folder.glob("*.safetensors")):
        raise ModelError(
            f"model: the folder {source} holds a whole model and an adapter.",
            hint=f"Move {CONFIG_FILE} and {WEIGHTS_FILE} into a folder of their own.",
        )
    return read_adapter(folder)


def read_adapter(folder: Path) -> AdapterFolder:
    """Read an adapter's description and find its base.

    Raises:
        ModelError: the folder is no adapter that can be used, or its base is not there.
    """
    config = _read_object(folder / CONFIG_FILE)
    if not (folder / WEIGHTS_FILE).is_file():
        what = "only a pickle, " + _FOREIGN_WEIGHTS if (folder / _FOREIGN_WEIGHTS).is_file() else "no weights"
        raise ModelError(
            f"model: the adapter {folder} holds {what}; {WEIGHTS_FILE} is needed.",
            hint="Adapters are read from safetensors alone, since pickles can run code; save it again with peft.",
        )
    digest = None
    if (folder / BASE_FILE).is_file():
        found = _read_object(folder / BASE_FILE).get("weights_sha256")
        digest = found if isinstance(found, str) else None
    return AdapterFolder(folder, config, _find_base(folder, config), digest)


def adapter_base(folder: Path) -> str | None:
    """Return folder or hub id of the model an adapter was trained on; None for a folder that is no adapter.

    Raises:
        ModelError: the adapter cannot be used, or its base is not there.
    """
    adapter = find_adapter(str(folder))
    return None if adapter is None else adapter.base


def find_tokenizer_source(source: str) -> str:
    """Return where a model's tokenizer is: in an adapter's folder only if somebody put one there, else in its base.

    Raises:
        ModelError: `source` is an adapter that cannot be used, or its base is not there.
    """
    adapter = find_adapter(source)
    if adapter is None or any((adapter.folder / name).is_file() for name in TOKENIZER_FILES):
        return source
    return adapter.base


def _find_base(folder: Path, config: dict[str, Any]) -> str:
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise ModelError(
            f"model: the adapter {folder} does not say which model it was trained on.",
            hint=f"Write its folder or hub id as base_model_name_or_path into {folder / CONFIG_FILE}.",
        )
    path = next((p for p in (Path(base).expanduser(), folder / base) if p.is_dir()), None)
    if path is None:
        if is_path(base):
            raise ModelError(
                f"model: the adapter {folder} was trained on {base}, which is not there.",
                hint=f"Put it back, or write its new place as base_model_name_or_path into {folder / CONFIG_FILE}.",
            )
        return base  # a hub id
    if (path / CONFIG_FILE).is_file():
        raise ModelError(
            f"model: the adapter {folder} was trained on {base}, which is an adapter itself.",
            hint="Merge that one into a plain model first.",
        )
    return str(path)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model: {path} cannot be read: {error}.", hint="Save the adapter again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"model: {path} must hold a JSON object.", hint="Save the adapter again.")
    return value
