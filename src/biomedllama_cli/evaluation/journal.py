"""What an evaluation has found out so far, appended as it comes, so that a killed run continues.

A work folder beside the output holds one file of lines per process. A line is one finished piece of work: the
likelihoods of a question, or a generated text. Its key says exactly what was asked, so a line is never taken for
another question, model or precision: the folder's name is the identity of the whole command.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedllama_cli.corpus.disk import explain_full_disk
from biomedllama_cli.corpus.locks import LockTakenError, hold_lock
from biomedllama_cli.errors import OutputError

logger = logging.getLogger(__name__)

_IDENTITY_FILE = "identity.json"


def digest(content: Any) -> str:
    """Return the SHA-256 of JSON content, whatever the order of its keys, as hexadecimal.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Journal:
    """Finished pieces of one command, by key; open it with `open_journal`.

    Attributes:
        folder: the work folder.
        found: pieces that an earlier start finished.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self._finished = dict(_read_pieces(folder))
        self.found = len(self._finished)
        path = folder / f"finished-{rank}.jsonl"
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def count(self) -> int:
        """Return how many pieces are finished now, by all processes."""
        return len(dict(_read_pieces(self.folder)))

    def find(self, key: str) -> Any | None:
        """Return what was found out for a key, or None."""
        return self._finished.get(key)

    def append(self, key: str, task: str, item: str, value: Any) -> None:
        """Keep a finished piece: it survives the end of this process, however that comes.

        Args:
            key: of what was asked.
            task: it belongs to, for readers of the file.
            item: likewise.
            value: JSON content; read back equal to the bit, since floats are written in full.
        """
        line = json.dumps({"key": key, "task": task, "id": item, "value": value}, ensure_ascii=False)
        self._file.write(line + "\n")
        self._file.flush()
        self._finished[key] = value

    def close(self) -> None:
        """Close this process's file."""
        self._file.close()


@dataclass(frozen=True)
class Keeper:
    """A kind of command that keeps a journal.

    Attributes:
        prefix: of its work folders.
        work: what it does, for messages.
        hint: what to do where a work folder cannot be made.
        mode: of the work folder: what is said to a model is for its owner alone.
    """

    prefix: str
    work: str
    hint: str
    mode: int = 0o777


EVALUATION = Keeper(".evaluate-", "evaluation", "Give another --output-dir.")
ANSWERING = Keeper(".chat-", "command", "Give another --output.", 0o700)


def name_work_folder(parent: Path, identity: dict[str, Any], keeper: Keeper = EVALUATION) -> Path:
    """Return the work folder of a command."""
    return parent / f"{keeper.prefix}{digest(identity)[:16]}"


@contextmanager
def open_journal(
    parent: Path, identity: dict[str, Any], *, rank: int = 0, keeper: Keeper = EVALUATION
) -> Iterator[Journal]:
    """Hold the journal of a command; other processes of the same job may join with another rank.

    Args:
        parent: the folder beside whose outputs the work folder lies.
        identity: everything the numbers follow from; another identity has another folder.
        rank: of this process.
        keeper: the kind of command.

    Raises:
        OutputError: another process runs the same command, the folder cannot be written, or its disk is full.
    """
    folder = name_work_folder(parent, identity, keeper)
    try:
        folder.mkdir(keeper.mode, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the work folder {folder} cannot be made ({error.strerror})", keeper.hint
        ) from error
    try:
        with hold_lock(folder / _lock_name(rank)), explain_full_disk(folder):
            if rank == 0:
                content = json.dumps(identity, ensure_ascii=False, indent=2) + "\n"
                (folder / _IDENTITY_FILE).write_text(content, encoding="utf-8")
            journal = Journal(folder, rank)
            try:
                if journal.found and rank == 0:
                    logger.info("continuing: %d finished pieces are in %s", journal.found, folder)
                yield journal
            finally:
                journal.close()
    except LockTakenError as error:
        raise OutputError(
            f"the same {keeper.work} is running already (its work folder is {folder})",
            "Wait for it, or stop it first: what it has finished is used again.",
        ) from error


def remove_journal(folder: Path) -> None:
    """Remove the work folder of a command whose results are written, unless another start has taken it up."""
    with suppress(LockTakenError, FileNotFoundError), hold_lock(folder / _lock_name(0)):
        shutil.rmtree(folder, ignore_errors=True)


def find_in_journals(parent: Path, key: str) -> list[Any]:
    """Return what the journals beside some outputs say under a key."""
    pieces = (dict(_read_pieces(folder)) for folder in sorted(parent.glob(f"{EVALUATION.prefix}*")))
    return [found[key] for found in pieces if key in found]


def _lock_name(rank: int) -> str:
    return f"lock-{rank}"


def _read_pieces(folder: Path) -> Iterator[tuple[str, Any]]:
    with suppress(FileNotFoundError):  # another process may be removing the folder of a command that is done
        for path in sorted(folder.glob("finished-*.jsonl")):
            yield from _read_lines(path)


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    # After the last line end stands what a kill cut short, even where it can be read: it is about to be removed.
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
            yield record["key"], record["value"]
        except (ValueError, KeyError, TypeError):
            continue  # a line that a crash of the machine left behind: what it told is found out again


def _cut_torn_line(path: Path) -> None:
    """Remove what stands after the last line end: a later line must not be glued to it."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
