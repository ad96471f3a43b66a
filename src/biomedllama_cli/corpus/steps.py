"""The datatrove steps of `prepare`: read, keep what is wanted, tokenise and write."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from datatrove.pipeline.base import PipelineStep
from loguru import logger as loguru_logger

from biomedllama_cli.corpus.document import Dropped, Record
from biomedllama_cli.corpus.job import flush_folder, flush_path
from biomedllama_cli.corpus.shards import choose_dtype
from biomedllama_cli.corpus.source import SUBSETS, Source, hash_file
from biomedllama_cli.corpus.sources.files import InputFile
from biomedllama_cli.corpus.split import DOCUMENT, hash_content
from biomedllama_cli.errors import DataError
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer

# datatrove logs through loguru straight to stderr; this program has its own log.
loguru_logger.disable("datatrove")

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 1 << 20
_SKIP_HINT = "Mend the input, or go on without such records with --on-bad-record skip: they are counted."


class ReadRecords(PipelineStep):  # type: ignore[misc]
    """Read one task's part of the input.

    Args:
        source: the whole input.
        skip_bad: whether records that cannot be read are counted, not an error.
        progress: file of one uint64 per task: bytes of input consumed.

    Attributes:
        opened: files of the task that were read, wholly or in part.
    """

    name, type = "Pile records", "Reader"

    def __init__(self, source: Source, *, skip_bad: bool, progress: Path) -> None:
        super().__init__()
        self.source, self.skip_bad, self.progress = source, skip_bad, progress
        self.opened: list[InputFile] = []

    def run(
        self, data: Iterable[Record | Dropped] | None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Record | Dropped]:
        """Yield the records of task `rank`."""
        self.opened.clear()
        for record in self.source.iter_part(rank, world_size, self._reporter(rank), self.opened.append):
            if isinstance(record, Dropped) and not self.skip_bad:
                raise DataError(f"{record.where}: {record.problem}.", _SKIP_HINT)
            yield record

    def _reporter(self, rank: int) -> Callable[[int], None]:
        positions = np.memmap(self.progress, np.uint64, "r+")

        def report(position: int) -> None:
            positions[rank] = position

        return report


class KeepWanted(PipelineStep):  # type: ignore[misc]
    """Drop records of other subsets and records without text.

    Args:
        subset: part of The Pile to keep, or None for everything.
    """

    name, type = "Subset", "Filter"

    def __init__(self, subset: str | None) -> None:
        super().__init__()
        self.wanted = SUBSETS[subset] if subset else None

    def run(
        self, data: Iterable[Record | Dropped], rank: int = 0, world_size: int = 1
    ) -> Iterator[Record | Dropped]:
        """Yield every record, the unwanted ones as `Dropped`."""
        for record in data:
            yield record if isinstance(record, Dropped) else self.decide(record)

    def decide(self, record: Record) -> Record | Dropped:
        """Return the record, or why it is not wanted."""
        if self.wanted is not None and record.subset not in self.wanted:
            return Dropped("other_subset" if record.subset is not None else "no_subset_named", record.where)
        if not record.text.strip():
            return Dropped("empty_text", record.where)
        return record


class WriteTokens(PipelineStep):  # type: ignore[misc]
    """Tokenise documents into the task's folder: ids end to end, a table of documents, a summary.

    Args:
        reader: the step that reads; the files it opened are hashed here, next to their reading.
        tokenizer_folder: the saved tokenizer.
        digest: SHA-256 of that tokenizer's definition, to load it once per process and no other.
        tasks_folder: where finished tasks are kept.
        adds_bos: whether BOS begins each document.
        threads: SentencePiece's threads, -1 for one per core.
    """

    name, type = "Token ids", "Writer"

    def __init__(
        self,
        reader: ReadRecords,
        tokenizer_folder: Path,
        tasks_folder: Path,
        *,
        digest: str,
        adds_bos: bool,
        threads: int,
    ) -> None:
        super().__init__()
        self.reader, self.tokenizer_folder, self.tasks_folder = reader, tokenizer_folder, tasks_folder
        self.digest, self.adds_bos, self.threads = digest, adds_bos, threads

    def run(
        self, data: Iterable[Record | Dropped], rank: int = 0, world_size: int = 1
    ) -> Iterator[Record | Dropped]:
        """Write everything that comes and pass nothing on."""
        tokenizer = dataclasses.replace(
            _load_once(str(self.tokenizer_folder), self.digest), threads=self.threads
        )
        target = task_folder(self.tasks_folder, rank)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        counts: Counter[str] = Counter()
        read = 0
        with (unfinished / "tokens.bin").open("wb") as tokens, (unfinished / "table.bin").open("wb") as table:
            for batch in _iter_batches(data):
                read += len(batch)
                counts.update(item.reason for item in batch if isinstance(item, Dropped))
                texts = [item.text for item in batch if isinstance(item, Record)]
                ids, rows = encode_documents(texts, tokenizer, adds_bos=self.adds_bos)
                tokens.write(ids.tobytes())
                table.write(rows.tobytes())
        opened = self.reader.opened
        summary = {
            "read": read,
            "dropped": dict(sorted(counts.items())),
            "files": [{"path": file.label, "size": file.size, "sha256": hash_file(file)} for file in opened],
            "stamps": _list_stamps(opened),
        }
        (unfinished / "summary.json").write_bytes(orjson.dumps(summary))
        flush_folder(unfinished)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
        flush_path(self.tasks_folder)
        yield from ()


def task_folder(tasks_folder: Path, rank: int) -> Path:
    """Return where task `rank` is kept when it is finished."""
    return tasks_folder / f"{rank:05d}"


def encode_documents(
    texts: list[str], tokenizer: Tokenizer, *, adds_bos: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the ids of all texts end to end ([BOS] text EOS each), and their rows of the document table."""
    begin = [tokenizer.bos_id] if adds_bos else []
    encoded = tokenizer.encode_batch(texts) if texts else []
    extra = len(begin) + 1
    rows = np.empty(len(texts), DOCUMENT)
    for index, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        data = text.encode("utf-8")
        rows[index] = (*hash_content(data), len(ids) + extra, len(data))
    stream = itertools.chain.from_iterable((*begin, *ids, tokenizer.eos_id) for ids in encoded)
    dtype = choose_dtype(tokenizer.vocabulary_size)
    return np.fromiter(stream, dtype, count=int(rows["tokens"].sum())), rows


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a finished task."""
    value: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return value


def is_current(folder: Path, files: Sequence[InputFile]) -> bool:
    """Tell whether a task is finished and its files are still those it was made from.

    Args:
        folder: where the task is kept.
        files: the task's files as they are now; of them it may have read only the first.
    """
    try:
        stamps = read_summary(folder)["stamps"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(stamps == _list_stamps(files)[: len(stamps)])


def _list_stamps(files: Sequence[InputFile]) -> list[list[int]]:
    return [[file.size, file.modified_ns] for file in files]


@functools.lru_cache(maxsize=1)
def _load_once(folder: str, digest: str) -> Tokenizer:
    """Load the work folder's tokenizer: one process has many tasks, and a large vocabulary takes seconds."""
    return load_tokenizer(folder)


def _iter_batches(data: Iterable[Record | Dropped]) -> Iterator[list[Record | Dropped]]:
    batch: list[Record | Dropped] = []
    characters = 0
    for item in data:
        batch.append(item)
        characters += len(item.text) if isinstance(item, Record) else 0
        if len(batch) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
