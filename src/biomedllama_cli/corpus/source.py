"""The input of one job as a whole: its sources in order, and how it is cut into tasks."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from biomedllama_cli.corpus.document import Deletion, Item, Record
from biomedllama_cli.corpus.sources.files import InputFile

REPLAY = "replay"
"""Name of the source of general text against forgetting."""
_MAX_TASKS = 1024


class Reader(Protocol):
    """What every source is to the pipeline."""

    def list_inputs(self, patterns: tuple[str, ...]) -> list[InputFile]:
        """Return the inputs that files, folders and globs name, in the order they are to be read."""

    def iter_documents(self, file: InputFile, report_position: Callable[[int], None]) -> Iterator[Item]:
        """Yield what one input holds; `report_position` is told the bytes of it consumed."""

    def identify(self) -> dict[str, Any]:
        """Return the settings that change what is read, fit for JSON."""


@dataclass(frozen=True)
class Part:
    """One source of a job.

    Attributes:
        name: `pile`, `pubmed`, `pmc`, `text`, `sample` or `replay`.
        reader: how its files are read.
        files: its inputs, in order.
        weight: passes over it in one epoch of training.
        max_characters: text to read of each of its files at most, or None.
    """

    name: str
    reader: Reader
    files: tuple[InputFile, ...]
    weight: float = 1.0
    max_characters: int | None = None

    def describe(self) -> list[Any]:
        """Return what tells it from another apart from its files, fit for JSON."""
        return [self.name, self.weight, self.max_characters, self.reader.identify()]


@dataclass(frozen=True)
class Source:
    """Everything to be read, in order.

    Attributes:
        parts: the sources.
        max_documents: records to read at most, replayed ones apart, or None.
    """

    parts: tuple[Part, ...]
    max_documents: int | None = None

    @functools.cached_property
    def inputs(self) -> list[tuple[int, InputFile]]:
        """All inputs in order, each with the number of its source."""
        return [(number, file) for number, part in enumerate(self.parts) for file in part.files]

    @property
    def size(self) -> int | None:
        """Bytes of all files, or None when a hub dataset is among them."""
        files = [file for _, file in self.inputs]
        return sum(file.size for file in files) if all(file.on_disk for file in files) else None

    @property
    def weights(self) -> dict[str, float]:
        """Passes per epoch, by name of the source."""
        return {part.name: part.weight for part in self.parts}

    def identify(self) -> list[Any]:
        """Return what tells this input from another: names, settings of the readers, paths, sizes and times."""
        return [[*part.describe(), [_identify_file(file) for file in part.files]] for part in self.parts]

    def list_paths(self) -> list[Any]:
        """Return `identify` without the sizes and times of files."""
        return [[*part.describe(), [_identify_file(file)[0] for file in part.files]] for part in self.parts]

    def count_tasks(self, wanted: int | None) -> int:
        """Return the number of tasks: one per file unless fewer are wanted or the reading stops early."""
        if self.max_documents is not None:
            return 1  # where it stops is known only to one reader of everything
        inputs = sum(len(part.files) for part in self.parts)
        return max(min(inputs, wanted or _MAX_TASKS), 1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        """Return this very object: it never changes, and every task would copy millions of files."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Go to other processes without what can be derived."""
        return {"parts": self.parts, "max_documents": self.max_documents}

    def part(self, rank: int, world_size: int) -> list[tuple[int, InputFile]]:
        """Return the neighbouring inputs of task `rank`, so that tasks in order are the input in order."""
        inputs = self.inputs
        count = len(inputs)
        return inputs[rank * count // world_size : (rank + 1) * count // world_size]

    def iter_part(
        self,
        rank: int,
        world_size: int,
        report_position: Callable[[int], None] = lambda position: None,
        on_open: Callable[[InputFile], None] = lambda file: None,
    ) -> Iterator[tuple[int, Item]]:
        """Yield what task `rank` reads, each item with the number of its source.

        Args:
            rank: number of the task.
            world_size: number of tasks.
            report_position: told the bytes of the task's files consumed.
            on_open: told each file before it is read.
        """
        done, left = 0, self.max_documents
        for number, file in self.part(rank, world_size):
            part = self.parts[number]
            counts, room = part.name != REPLAY, part.max_characters
            if counts and left == 0:
                continue
            on_open(file)
            reached = 0

            def report(position: int, before: int = done) -> None:
                nonlocal reached
                reached = position
                report_position(before + position)

            for item in part.reader.iter_documents(file, report):
                yield number, item
                if room is not None and isinstance(item, Record):
                    room -= len(item.text)
                    if room <= 0:
                        break
                if counts and left is not None and not isinstance(item, Deletion):
                    left -= 1
                    if left == 0:
                        break
            done += file.size if file.on_disk else reached
            report_position(done)


def _identify_file(file: InputFile) -> list[Any]:
    # The bundled sample is the same wherever it is installed.
    here = file.on_disk and not file.label.startswith("sample:")
    return [str(file.path.resolve()) if here else file.label, file.size, file.modified_ns]


def hash_file(file: InputFile) -> str:
    """Return the SHA-256 of a file's bytes."""
    with file.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
