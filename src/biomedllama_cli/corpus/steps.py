"""The datatrove steps of `prepare` before tokens are written: read, select, keep benchmarks out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datatrove.pipeline.base import PipelineStep
from loguru import logger as loguru_logger

from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex, load_index
from biomedllama_cli.corpus.decontamination.matching import Overlap, find_overlaps
from biomedllama_cli.corpus.decontamination.screening import find_all_overlaps
from biomedllama_cli.corpus.document import Dropped, Item, Record
from biomedllama_cli.corpus.selection import Gate, drop_record
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.corpus.sources.files import InputFile
from biomedllama_cli.errors import DataError

# datatrove logs through loguru straight to stderr; this program has its own log.
loguru_logger.disable("datatrove")

_BATCH_ENTRIES = 256
_BATCH_CHARACTERS = 1 << 20
_SKIP_HINT = "Mend the input, or go on without such records with --on-bad-record skip: they are counted."


@dataclass(frozen=True, slots=True)
class Entry:
    """What one step hands to the next.

    Attributes:
        part: number of the source in `Source.parts`.
        item: what the source yielded, or the same as dropped.
        overlaps: benchmark items found in its text or named by its identifiers.
    """

    part: int
    item: Item
    overlaps: tuple[Overlap, ...] = ()


class ReadRecords(PipelineStep):  # type: ignore[misc]
    """Read one task's part of the input.

    Args:
        source: the whole input.
        skip_bad: whether records that cannot be read are counted, not an error.
        progress: file of one uint64 per task: bytes of input consumed.

    Attributes:
        opened: files of the task that were read, wholly or in part.
    """

    name, type = "Records", "Reader"

    def __init__(self, source: Source, *, skip_bad: bool, progress: Path) -> None:
        super().__init__()
        self.source, self.skip_bad, self.progress = source, skip_bad, progress
        self.opened: list[InputFile] = []

    def run(self, data: Iterable[Entry] | None, rank: int = 0, world_size: int = 1) -> Iterator[Entry]:
        """Yield the records of task `rank`."""
        self.opened.clear()
        for part, item in self.source.iter_part(rank, world_size, self._reporter(rank), self.opened.append):
            if isinstance(item, Dropped) and item.problem and not self.skip_bad:
                raise DataError(f"{item.where}: {item.problem}.", _SKIP_HINT)
            yield Entry(part, item)

    def _reporter(self, rank: int) -> Callable[[int], None]:
        positions = np.memmap(self.progress, np.uint64, "r+")

        def report(position: int) -> None:
            positions[rank] = position

        return report


class Select(PipelineStep):  # type: ignore[misc]
    """Drop what the gate of its source does not let through.

    Args:
        gates: one for each source, in order.
    """

    name, type = "Selection", "Filter"

    def __init__(self, gates: tuple[Gate, ...]) -> None:
        super().__init__()
        self.gates = gates

    def run(self, data: Iterable[Entry], rank: int = 0, world_size: int = 1) -> Iterator[Entry]:
        """Yield every entry, unwanted records as `Dropped`."""
        for entry in data:
            if isinstance(entry.item, Record):
                decided = self.gates[entry.part].decide(entry.item)
                yield entry if decided is entry.item else Entry(entry.part, decided)
            else:
                yield entry


class Decontaminate(PipelineStep):  # type: ignore[misc]
    """Find benchmark items in documents, and drop such documents where that is asked for.

    Args:
        folder: the saved index.
        digest: SHA-256 of the index, to load it once per process and no other.
        drop: whether documents with an overlap go.
    """

    name, type = "Decontamination", "Filter"

    def __init__(self, folder: Path, digest: str, *, drop: bool) -> None:
        super().__init__()
        self.folder, self.digest, self.drop = folder, digest, drop

    def run(self, data: Iterable[Entry], rank: int = 0, world_size: int = 1) -> Iterator[Entry]:
        """Yield every entry with its overlaps; contaminated records as `Dropped` where they go."""
        index = _load_index_once(str(self.folder), self.digest)
        for batch in iter_batches(data):
            searched = [
                (entry.item.text, entry.item.metadata) for entry in batch if isinstance(entry.item, Record)
            ]
            found = iter(find_all_overlaps(index, searched))
            for entry in batch:
                if isinstance(entry.item, Record):
                    yield self._mark(entry, next(found))
                else:
                    yield _mark_left_out(entry, index)

    def _mark(self, entry: Entry, overlaps: Sequence[Overlap]) -> Entry:
        assert isinstance(entry.item, Record)
        if not overlaps:
            return entry
        item = drop_record(entry.item, "contaminated") if self.drop else entry.item
        return Entry(entry.part, item, tuple(overlaps))


def _mark_left_out(entry: Entry, index: BenchmarkIndex) -> Entry:
    """Tell what a citation that is left out says by its PMID: its full text may be known by its PMCID alone."""
    metadata = entry.item.metadata if isinstance(entry.item, Dropped) else None
    if metadata is None or metadata.pmid not in index.pmids:
        return entry
    return Entry(entry.part, entry.item, tuple(find_overlaps(index, "", metadata)))


def iter_batches(data: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield entries some at a time: what is worth doing at once, in bounded memory."""
    batch: list[Entry] = []
    characters = 0
    for entry in data:
        batch.append(entry)
        characters += len(entry.item.text) if isinstance(entry.item, Record) else 0
        if len(batch) == _BATCH_ENTRIES or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@functools.lru_cache(maxsize=1)
def _load_index_once(folder: str, digest: str) -> BenchmarkIndex:
    return load_index(Path(folder))
