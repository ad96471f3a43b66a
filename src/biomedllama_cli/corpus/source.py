"""The input of one job as a whole, and how it is cut into tasks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from biomedllama_cli.corpus.document import Dropped, Record
from biomedllama_cli.corpus.sources.files import InputFile, find_inputs
from biomedllama_cli.corpus.sources.hub import HubDataset, iter_hub_records, open_hub_dataset
from biomedllama_cli.corpus.sources.pile import SUFFIXES, iter_records
from biomedllama_cli.corpus.sources.sample import find_sample
from biomedllama_cli.settings.prepare import SourceSettings

SUBSETS: dict[str, frozenset[str]] = {
    "pubmed-abstracts": frozenset({"PubMed Abstracts"}),
    "pubmed-central": frozenset({"PubMed Central"}),
    "pubmed": frozenset({"PubMed Abstracts", "PubMed Central"}),
}
_MAX_TASKS = 1024


@dataclass(frozen=True)
class Source:
    """Everything to be read, in order.

    Attributes:
        files: input files; empty when a hub dataset is read.
        hub: the hub dataset, or None.
        text_field: field that holds the text.
        max_documents: records to read at most, or None.
    """

    files: tuple[InputFile, ...]
    hub: HubDataset | None
    text_field: str
    max_documents: int | None

    @property
    def size(self) -> int | None:
        """Bytes of all files, or None for a hub dataset."""
        return None if self.hub else sum(file.size for file in self.files)

    @property
    def labels(self) -> list[str]:
        """Names of all inputs, in order."""
        return [self.hub.label] if self.hub else [file.label for file in self.files]

    def identify(self) -> list[Any]:
        """Return what tells this input from another: commit, or paths, sizes and times."""
        if self.hub:
            return self.hub.identify()
        stamps = [[file.size, file.modified_ns] for file in self.files]
        return [[path, *stamp] for path, stamp in zip(self.list_paths(), stamps, strict=True)]

    def list_paths(self) -> list[str]:
        """Return where the files are, or for the bundled sample, which is the same everywhere, their names."""
        return [
            file.label if file.label.startswith("sample:") else str(file.path.resolve())
            for file in self.files
        ]

    def count_tasks(self, wanted: int | None) -> int:
        """Return the number of tasks: one per file unless fewer are wanted or the reading stops early."""
        if self.max_documents is not None:
            return 1  # where it stops is known only to one reader of everything
        parts = self.hub.shards if self.hub else len(self.files)
        return max(min(parts, wanted or _MAX_TASKS), 1)

    def part(self, rank: int, world_size: int) -> tuple[InputFile, ...]:
        """Return the neighbouring files of task `rank`, so that tasks in order are the input in order."""
        count = len(self.files)
        return self.files[rank * count // world_size : (rank + 1) * count // world_size]

    def iter_part(
        self,
        rank: int,
        world_size: int,
        report_position: Callable[[int], None] = lambda position: None,
        on_open: Callable[[InputFile], None] = lambda file: None,
    ) -> Iterator[Record | Dropped]:
        """Yield the records of task `rank`.

        Args:
            rank: number of the task.
            world_size: number of tasks.
            report_position: told the bytes of the task's files consumed.
            on_open: told each file before it is read.
        """
        records = self._iter_part(rank, world_size, report_position, on_open)
        return itertools.islice(records, self.max_documents)

    def _iter_part(
        self,
        rank: int,
        world_size: int,
        report_position: Callable[[int], None],
        on_open: Callable[[InputFile], None],
    ) -> Iterator[Record | Dropped]:
        done = 0
        if self.hub:
            for record in iter_hub_records(self.hub, self.text_field, rank, world_size):
                yield record
                done += len(record.text) if isinstance(record, Record) else 0
                report_position(done)
        for file in self.part(rank, world_size):
            on_open(file)
            yield from iter_records(file, self.text_field, _shift(report_position, done))
            done += file.size
            report_position(done)


def _shift(report_position: Callable[[int], None], by: int) -> Callable[[int], None]:
    return lambda position: report_position(by + position)


def build_source(settings: SourceSettings) -> Source:
    """Find what the settings name: files, the bundled sample, or a dataset of the hub.

    Raises:
        DataError: there is no such input.
        UnavailableError: the hub cannot be reached.
    """
    hub = None
    files: list[InputFile] = []
    if settings.sample:
        files = find_sample()
    elif settings.input:
        files = find_inputs(settings.input, SUFFIXES)
    else:
        hub = open_hub_dataset(settings.hub_dataset, settings.hub_split)
    return Source(tuple(files), hub, settings.text_field, settings.max_documents)


def hash_file(file: InputFile) -> str:
    """Return the SHA-256 of a file's bytes."""
    with file.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
