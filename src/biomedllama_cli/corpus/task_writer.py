"""The last step of a task: what it read becomes ids, tables and a summary in a folder of its own."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from datatrove.pipeline.base import PipelineStep

from biomedllama_cli.corpus.decontamination.report import write_overlaps
from biomedllama_cli.corpus.document import Deletion, Dropped, Record
from biomedllama_cli.corpus.document_table import TableWriter
from biomedllama_cli.corpus.durable import flush_folder, flush_path
from biomedllama_cli.corpus.encoding import encode_documents
from biomedllama_cli.corpus.links import LinkWriter
from biomedllama_cli.corpus.selection import Gate
from biomedllama_cli.corpus.source import Source, hash_file
from biomedllama_cli.corpus.sources.files import InputFile
from biomedllama_cli.corpus.steps import Entry, ReadRecords, iter_batches
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer

TOKENS_FILE = "tokens.bin"
ROWS_FILE = "table.bin"
LINKS_FILE = "links.bin"
SIGNATURES_FILE = "signatures.bin"
DOCUMENTS_FILE = "documents.parquet"
CONTAMINATION_FILE = "contamination.jsonl"
_SUMMARY_FILE = "summary.json"
EXAMPLES_PER_REASON = 3
_EXAMPLE_CHARACTERS = 300


class WriteTask(PipelineStep):  # type: ignore[misc]
    """Tokenise documents into the task's folder: ids end to end, tables of documents and links, a summary.

    Args:
        reader: the step that reads; the files it opened are hashed here, next to their reading.
        gates: one for each source, in order.
        tokenizer_folder: the saved tokenizer.
        tasks_folder: where finished tasks are kept.
        digest: SHA-256 of that tokenizer's definition, to load it once per process and no other.
        adds_bos: whether BOS begins each document.
        signs: whether near-duplicates are looked for later.
        threads: SentencePiece's threads, -1 for one per core.
    """

    name, type = "Task", "Writer"

    def __init__(
        self,
        reader: ReadRecords,
        gates: tuple[Gate, ...],
        tokenizer_folder: Path,
        tasks_folder: Path,
        *,
        digest: str,
        adds_bos: bool,
        signs: bool,
        threads: int,
    ) -> None:
        super().__init__()
        self.reader, self.gates = reader, gates
        self.tokenizer_folder, self.tasks_folder = tokenizer_folder, tasks_folder
        self.digest, self.adds_bos, self.signs, self.threads = digest, adds_bos, signs, threads

    def run(self, data: Iterable[Entry], rank: int = 0, world_size: int = 1) -> Iterator[Entry]:
        """Write everything that comes and pass nothing on."""
        tokenizer = dataclasses.replace(
            _load_once(str(self.tokenizer_folder), self.digest), threads=self.threads
        )
        target = task_folder(self.tasks_folder, rank)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with _TaskFiles(unfinished, self.reader.source, self.gates, signs=self.signs) as files:
            for batch in iter_batches(data):
                files.add(batch, tokenizer, adds_bos=self.adds_bos)
        opened = self.reader.opened
        summary = {
            **files.summarise(),
            "files": [_describe_file(file) for file in opened],
            "stamps": _list_stamps(opened),
        }
        (unfinished / _SUMMARY_FILE).write_bytes(orjson.dumps(summary))
        flush_folder(unfinished)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
        flush_path(self.tasks_folder)
        yield from ()


class _TaskFiles:
    """The open files of an unfinished task, and its counts."""

    def __init__(self, folder: Path, source: Source, gates: tuple[Gate, ...], *, signs: bool) -> None:
        self._source, self._gates = source, gates
        self._signer = _build_signer() if signs else None
        self._tokens = (folder / TOKENS_FILE).open("wb")
        self._rows = (folder / ROWS_FILE).open("wb")
        self._signatures = (folder / SIGNATURES_FILE).open("wb") if signs else None
        self._link_file = (folder / LINKS_FILE).open("wb")
        self._contamination = (folder / CONTAMINATION_FILE).open("wb")
        self._table = TableWriter(folder / DOCUMENTS_FILE)
        self._links = LinkWriter()
        self._read = Counter[int]()
        self._dropped: dict[int, Counter[str]] = {}
        self._examples: dict[str, list[dict[str, Any]]] = {}
        self._documents = Counter[int]()
        self._position = 0

    def __enter__(self) -> _TaskFiles:
        return self

    def __exit__(self, *_: object) -> None:
        files = (
            self._tokens,
            self._rows,
            self._signatures,
            self._link_file,
            self._contamination,
            self._table,
        )
        for file in files:
            if file is not None:
                file.close()

    def add(self, batch: list[Entry], tokenizer: Tokenizer, *, adds_bos: bool) -> None:
        """Write a batch of entries."""
        kept: list[tuple[int, Record]] = []
        for entry in batch:
            document = self._documents.total()
            item = entry.item
            if isinstance(item, Record):
                kept.append((entry.part, item))
                self._documents[entry.part] += 1
            elif isinstance(item, Dropped):
                self._count_drop(entry.part, item)
                document = -1
            if not isinstance(item, Deletion):
                self._read[entry.part] += 1
                if entry.overlaps:
                    number = document if isinstance(item, Record) else None
                    write_overlaps(
                        self._contamination, number, item.where, item.metadata, overlaps=entry.overlaps
                    )
            self._link(entry, document)
        texts = [record.text for _, record in kept]
        ids, rows = encode_documents(texts, tokenizer, adds_bos=adds_bos)
        self._tokens.write(ids.data)
        self._rows.write(rows.tobytes())
        self._link_file.write(self._links.to_bytes())
        if self._signer and self._signatures:
            self._signatures.write(self._signer.sign(texts))
        names = [self._source.parts[part].name for part, _ in kept]
        self._table.add([record for _, record in kept], names, rows)

    def _link(self, entry: Entry, document: int) -> None:
        """Note whatever of an entry other documents may depend on."""
        item = entry.item
        if isinstance(item, Deletion) or item.metadata is not None:
            metadata = None if isinstance(item, Deletion) else item.metadata
            self._links.add(
                item,
                document,
                self._position,
                permitted=self._gates[entry.part].is_permitted(metadata),
                contaminated=bool(entry.overlaps),
                source=self._source.parts[entry.part].name,
            )
        self._position += 1

    def _count_drop(self, part: int, item: Dropped) -> None:
        self._dropped.setdefault(part, Counter())[item.reason] += 1
        examples = self._examples.setdefault(item.reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(describe_example(item))

    def summarise(self) -> dict[str, Any]:
        """Return the counts by source, and the examples by reason."""
        return {
            "read": _by_part(self._read),
            "documents": _by_part(self._documents),
            "dropped": {
                str(part): dict(sorted(counts.items())) for part, counts in sorted(self._dropped.items())
            },
            "examples": dict(sorted(self._examples.items())),
        }


def describe_example(item: Dropped) -> dict[str, Any]:
    """Return what the data card shows of a record left out."""
    metadata = item.metadata
    return {
        "where": item.where,
        "pmid": metadata.pmid if metadata else None,
        "pmcid": f"PMC{metadata.pmcid}" if metadata and metadata.pmcid else None,
        "title": metadata.title[:_EXAMPLE_CHARACTERS] if metadata else "",
        "text": (item.problem or item.text)[:_EXAMPLE_CHARACTERS],
    }


def _build_signer() -> Any:
    from biomedllama_cli.corpus.near_duplicates import Signer

    return Signer()


def _by_part(counts: Counter[int]) -> dict[str, int]:
    return {str(part): count for part, count in sorted(counts.items())}


def task_folder(tasks_folder: Path, rank: int) -> Path:
    """Return where task `rank` is kept when it is finished."""
    return tasks_folder / f"{rank:05d}"


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a finished task."""
    value: dict[str, Any] = json.loads((folder / _SUMMARY_FILE).read_text())
    return value


def is_current(folder: Path, files: Sequence[InputFile]) -> bool:
    """Tell whether a task is finished and its files are still those it was made from.

    Args:
        folder: where the task is kept.
        files: the task's files as they are now, in order; of them it may have read only some.
    """
    try:
        stamps = read_summary(folder)["stamps"]
    except (OSError, ValueError, KeyError):
        return False
    now = iter(_list_stamps(files))
    return all(stamp in now for stamp in stamps)  # each after the one before it


def _describe_file(file: InputFile) -> dict[str, Any]:
    if not file.on_disk:
        return {"path": file.label, "size": None, "sha256": None}
    return {"path": file.label, "size": file.size, "sha256": hash_file(file)}


def _list_stamps(files: Sequence[InputFile]) -> list[list[Any]]:
    return [[file.path.name, file.size, file.modified_ns] for file in files]


@functools.lru_cache(maxsize=1)
def _load_once(folder: str, digest: str) -> Tokenizer:
    """Load the work folder's tokenizer: one process has many tasks, and a large vocabulary takes seconds."""
    return load_tokenizer(folder)
