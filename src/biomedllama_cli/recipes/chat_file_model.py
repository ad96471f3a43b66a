"""Which model answered a file of questions, told by its files, so that nothing is loaded to know it again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomedllama_cli.chat.answers_file import ModelFacts
from biomedllama_cli.models.adapter_folder import CONFIG_FILE, TOKENIZER_FILES, find_adapter
from biomedllama_cli.models.chat_template import TEMPLATE_FILE
from biomedllama_cli.models.gguf import find_gguf
from biomedllama_cli.models.identity import hash_file, hash_weights, locate_model
from biomedllama_cli.models.tuning_facts import TUNING_FILE

_FILES = (
    CONFIG_FILE,
    *TOKENIZER_FILES,
    *("added_tokens.json", "config.json", "generation_config.json", "merges.txt"),
    *("special_tokens_map.json", "tokenizer_config.json", TEMPLATE_FILE, TUNING_FILE),
)
"""What a model computes and how it is spoken to follow from these, besides the weights."""


def describe_model(fact: Mapping[str, Any]) -> ModelFacts:
    """Return the facts of a loaded model, with the hash of its small files."""
    return ModelFacts(**fact, files_sha256=_hash_model(str(fact["source"]), fact.get("revision"))[1])


def is_same_model(fact: ModelFacts, source: str) -> bool:
    """Tell whether a source still is the model that facts tell of."""
    if fact.source != source:
        return False
    return _hash_model(source, fact.revision) == (fact.weights_sha256, fact.files_sha256)


def _hash_model(source: str, revision: str | None) -> tuple[str | None, str | None]:
    """Return the hashes of a model's weights and of its small files; a GGUF file holds both."""
    if (file := find_gguf(source)) is not None:
        return hash_file(file), None
    folder = locate_model(source, revision)
    return (None, None) if folder is None else (hash_weights(folder), _hash_files(folder))


def _hash_files(folder: Path) -> str:
    found = sorted({name for name in _FILES if (folder / name).is_file()})
    lines = "".join(f"{name} {hash_file(folder / name)}\n" for name in found)
    if (folder / CONFIG_FILE).is_file() and (adapter := find_adapter(str(folder))) is not None:
        base = locate_model(adapter.base, None)
        lines += f"base {base and _hash_files(base)}\n"
    return hashlib.sha256(lines.encode()).hexdigest()
