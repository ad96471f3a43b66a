"""What makes a job, and which output folder it may write or replace."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from biomedllama_cli import __version__
from biomedllama_cli.corpus.manifest import (
    MANIFEST_FILE,
    RETRIEVAL_FOLDER,
    TOKENIZER_FOLDER,
    CorpusManifest,
    load_corpus,
    load_manifest,
)
from biomedllama_cli.errors import DataError, OutputError

# Libraries that can change the tokens of a text.
_LIBRARIES = (
    "datasets",
    "datatrove",
    "lxml",
    "numpy",
    "orjson",
    "py3langid",
    "pyarrow",
    "rensa",
    "sentencepiece",
    "tokenizers",
    "transformers",
    "zstandard",
)


def list_versions() -> dict[str, str]:
    """Return the versions of this program and of the libraries that touch its result."""
    versions = {"biomedllama-cli": __version__}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def hash_job(facts: dict[str, Any]) -> str:
    """Return the SHA-256 of what makes a job: equal jobs give equal shards."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def resolve_output(path: Path) -> Path:
    """Return where `path` really is: the work folder has to be its sibling on the same disk.

    Raises:
        OutputError: its links lead nowhere, or there is no home folder for its `~`.
    """
    try:
        real = path.expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise OutputError(f"output_dir: {path} cannot be found: {error}.") from None
    if real.is_symlink():  # Python from 3.13 on says nothing about a loop
        raise OutputError(
            f"output_dir: {path} is a link to itself.", "Name another folder with --output-dir."
        )
    return real


def find_finished(output: Path, job: str) -> CorpusManifest | None:
    """Return the manifest in `output` when this very job made it and its files are whole."""
    try:
        manifest = load_manifest(output)
        if manifest.job == job:
            return load_corpus(output).manifest
    except DataError:
        pass
    return None


def check_output(output: Path, *, overwrite: bool) -> None:
    """Check that the corpus may be written to `output`.

    Raises:
        OutputError: it holds something that must not be replaced.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"output_dir: {output} is a file.", "Name a folder that does not exist yet.")
    if os.path.ismount(output):
        raise OutputError(
            f"output_dir: {output} is a mount point, and a finished corpus is moved to its place as a whole.",
            "Name a folder inside it.",
        )
    entries = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    if not entries:
        return
    if not overwrite:
        raise OutputError(
            f"output_dir: {output} is not empty, and what it holds was not made by this same job.",
            "Name another folder with --output-dir"
            + (", or replace the corpus in it with --overwrite." if MANIFEST_FILE in entries else "."),
        )
    foreign = entries - _list_own_entries(output)
    if foreign:
        raise OutputError(
            f"output_dir: {output} holds {sorted(foreign)[0]!r}, which is no part of a corpus.",
            "--overwrite only replaces a corpus: move that away, or name another folder with --output-dir.",
        )


def _list_own_entries(output: Path) -> set[str]:
    try:
        manifest = load_manifest(output)
    except DataError:
        return set()
    shards = {f"{entry.file}{suffix}" for entry in manifest.shards for suffix in (".bin", ".idx")}
    return (
        {MANIFEST_FILE, RETRIEVAL_FOLDER, TOKENIZER_FOLDER}
        | {entry.file for entry in manifest.files}
        | shards
    )
