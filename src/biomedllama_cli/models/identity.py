"""Which weights a model has: where its files are, and one hash over them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.adapter_folder import CONFIG_FILE, AdapterFolder, find_adapter
from biomedllama_cli.models.gguf import find_gguf


def locate_model(source: str, revision: str | None) -> Path | None:
    """Return the folder a loaded model's files are in, the given one or the hub cache's, or its file; None if neither.

    Args:
        source: folder, GGUF file or hub id.
        revision: commit of the hub repository.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if (file := find_gguf(source)) is not None:
        return file
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def hash_weights(folder: Path) -> str | None:
    """Return one SHA-256 over the weight files of a model folder, or None where there is none.

    Hashed are the lines `name sha256` of its .safetensors files (else .bin files) in order of name; for an adapter
    also a line `base sha256` with the hash of its base. In place of a folder, a GGUF file has its own hash.

    Raises:
        ModelError: the folder is an adapter whose base is not there.
    """
    if folder.is_file():
        return hash_file(folder)
    lines = _hash_files(folder)
    if lines and (folder / CONFIG_FILE).is_file() and (adapter := find_adapter(str(folder))) is not None:
        base = locate_model(adapter.base, None)
        lines += f"base {base and hash_weights(base)}\n"
    return hashlib.sha256(lines.encode()).hexdigest() if lines else None


def check_base(adapter: AdapterFolder, revision: str | None = None) -> None:
    """Check that an adapter's base still has the weights the adapter was trained on.

    Args:
        adapter: one that may know the hash of its base.
        revision: commit of the base, where it is a hub repository.

    Raises:
        ModelError: it has others.
    """
    base = locate_model(adapter.base, revision) if adapter.base_sha256 is not None else None
    if base is not None and hash_weights(base) != adapter.base_sha256:
        raise ModelError(
            f"model: the adapter {adapter.folder} was trained on other weights than those now in {adapter.base}.",
            hint="Give it the model it was trained on: base_model_name_or_path in its adapter_config.json.",
        )


def _hash_files(folder: Path) -> str:
    for pattern in ("*.safetensors", "*.bin"):
        if files := sorted(folder.glob(pattern)):
            return "".join(f"{file.name} {hash_file(file)}\n" for file in files)
    return ""


def hash_file(path: Path) -> str:
    """Return a file's SHA-256; one that has not changed is read once in a process."""
    state = path.stat()
    return _hash_content(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_content(path: Path, size: int, changed: int) -> str:
    """Return a file's SHA-256; size and time of change make a new entry for a new content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
