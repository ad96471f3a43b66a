"""One job's place on the disk: the hidden work folder beside the output, its lock, and who may replace what."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from biomedllama_cli import __version__
from biomedllama_cli.corpus.manifest import (
    MANIFEST_FILE,
    TOKEN_COUNTS_FILE,
    TOKENIZER_FOLDER,
    CorpusManifest,
    load_corpus,
    load_manifest,
)
from biomedllama_cli.errors import DataError, OutputError

_JOB_FILE = "job.json"
_LOCK_FILE = "lock"
# Libraries that can change the tokens of a text.
_LIBRARIES = (
    "datasets",
    "datatrove",
    "numpy",
    "orjson",
    "pyarrow",
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


@dataclass(frozen=True)
class WorkIdentity:
    """What unfinished work was made from.

    Attributes:
        job: fingerprint of the job, apart from what follows.
        tasks: parts the input is cut into.
        skip_bad: whether records that cannot be read are counted, not an error.
    """

    job: str
    tasks: int
    skip_bad: bool

    def may_continue(self, other: WorkIdentity) -> bool:
        """Tell whether work begun as `other` can go on as this: a strict run may go on leniently."""
        same = (self.job, self.tasks) == (other.job, other.tasks)
        return same and (self.skip_bad or not other.skip_bad)


@dataclass(frozen=True)
class WorkFolder:
    """The hidden folder a job works in, held by a lock.

    Attributes:
        path: the folder, a sibling of the output.
        output: where the finished corpus goes.
        resumed: whether the same job was here before.
    """

    path: Path
    output: Path
    resumed: bool

    @property
    def corpus(self) -> Path:
        """Where the corpus is put together before it is moved."""
        return self.path / "corpus"

    @property
    def tasks(self) -> Path:
        """Where finished tasks are kept."""
        return self.path / "tasks"

    def publish(self) -> None:
        """Move the finished corpus to its place in one step, and remove the work folder."""
        flush_folder(self.corpus)
        old = self.path / "replaced"
        shutil.rmtree(old, ignore_errors=True)
        if self.output.is_dir() and any(self.output.iterdir()):
            self.output.rename(old)
        self.corpus.rename(self.output)
        flush_path(self.output.parent)
        shutil.rmtree(self.path)


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
    entries = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    if not entries:
        return
    if not overwrite:
        raise OutputError(
            f"output_dir: {output} is not empty, and what it holds was not made by this same job.",
            "Name another folder with --output-dir, or replace the corpus in it with --overwrite.",
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
    return {MANIFEST_FILE, TOKEN_COUNTS_FILE, TOKENIZER_FOLDER} | shards


@contextmanager
def open_work_folder(output: Path, identity: WorkIdentity, *, overwrite: bool) -> Iterator[WorkFolder]:
    """Lock the work folder of `output` and make it fit for the job: new, or resumed.

    Args:
        output: the corpus folder to be.
        identity: what the finished tasks in it must have been made from.
        overwrite: whether unfinished work of another job may be thrown away.

    Raises:
        OutputError: another process works there, it holds another job's work, or it cannot be written.
    """
    path = output.with_name(f".{output.name}.partial")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"output_dir: {path} cannot be written: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"output_dir: another process is preparing {output} right now.",
                "Wait for it, or name another folder with --output-dir.",
            ) from None
        known = _read_identity(path)
        resumed = known is not None and identity.may_continue(known)
        if not resumed:
            others = [entry for entry in path.iterdir() if entry.name != _LOCK_FILE]
            worthless = known is not None and not _has_finished_tasks(path)
            if others and not worthless and not (overwrite and known is not None):
                raise OutputError(
                    f"output_dir: {path} holds unfinished work of another job (other settings, input or versions).",
                    "Run that command again to finish it, throw it away with --overwrite, or name another folder.",
                )
            for entry in others:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        (path / _JOB_FILE).write_text(json.dumps(asdict(identity)) + "\n")
        shutil.rmtree(path / "corpus", ignore_errors=True)
        try:
            yield WorkFolder(path, output, resumed)
        except BaseException:
            if not _has_finished_tasks(path):
                shutil.rmtree(path, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _has_finished_tasks(path: Path) -> bool:
    return any(path.glob("tasks/*/summary.json"))


def _read_identity(path: Path) -> WorkIdentity | None:
    try:
        return WorkIdentity(**json.loads((path / _JOB_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def flush_path(path: Path) -> None:
    """Make a file or a folder's list of names survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """Flush everything under a folder."""
    for entry in sorted(folder.rglob("*")):
        flush_path(entry)
    flush_path(folder)
