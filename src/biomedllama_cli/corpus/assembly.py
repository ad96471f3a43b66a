"""Finished tasks in, a corpus folder out: what stays is cut into shards, listed and counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from biomedllama_cli.corpus import reasons
from biomedllama_cli.corpus.decisions import Decisions
from biomedllama_cli.corpus.document_table import PlacedTableWriter, iter_tables
from biomedllama_cli.corpus.manifest import ByteCounts, DocumentCounts, ShardEntry, SourceEntry, TokenCounts
from biomedllama_cli.corpus.shard_set import PLACE, SPLITS, ShardSet, name_shard
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.corpus.split import DROPPED, TRAIN, VALIDATION
from biomedllama_cli.corpus.task_writer import (
    DOCUMENTS_FILE,
    EXAMPLES_PER_REASON,
    TOKENS_FILE,
    read_summary,
)

DOCUMENT_TABLE_FILE = "documents.parquet"
_RUN_TOKENS = 1 << 21  # tokens moved at once
_EXAMPLE_TOKENS = 100


@dataclass
class Assembled:
    """What was put into a corpus folder.

    Attributes:
        shards: their entries, in order.
        sources: counts by source.
        dropped_tokens: tokens of documents left out after they were tokenised, by reason.
        kept_bytes: bytes of text by split: TRAIN, VALIDATION.
        examples: some documents left out, by reason, for the data card.
    """

    shards: tuple[ShardEntry, ...] = ()
    sources: tuple[SourceEntry, ...] = ()
    dropped_tokens: Counter[str] = field(default_factory=Counter)
    kept_bytes: list[int] = field(default_factory=lambda: [0, 0])
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def documents(self) -> DocumentCounts:
        """Documents of all sources."""
        dropped: Counter[str] = Counter()
        for source in self.sources:
            dropped.update(source.documents.dropped)
        counts = [source.documents for source in self.sources]
        return DocumentCounts(
            read=sum(count.read for count in counts),
            kept=sum(count.kept for count in counts),
            train=sum(count.train for count in counts),
            validation=sum(count.validation for count in counts),
            dropped=dict(sorted(dropped.items())),
        )

    @property
    def tokens(self) -> TokenCounts:
        """Tokens of all sources."""
        return TokenCounts(
            train=sum(source.train_tokens for source in self.sources),
            validation=sum(source.validation_tokens for source in self.sources),
            dropped=dict(sorted(self.dropped_tokens.items())),
        )

    @property
    def bytes(self) -> ByteCounts:
        """Bytes of text by split."""
        return ByteCounts(train=self.kept_bytes[TRAIN], validation=self.kept_bytes[VALIDATION])


class Assembly:
    """Write the shards and the document table of a corpus from its tasks, in the order of the input.

    Args:
        source: the whole input.
        decisions: what becomes of every document.
        shards: where tokens go.
        table: where the rows of kept documents go.
        decode: turns ids into text, for examples of what was left out.
        on_documents: told the rows of kept documents, for counts.
        on_progress: told the tokens written.
    """

    def __init__(
        self,
        source: Source,
        decisions: Decisions,
        shards: ShardSet,
        table: PlacedTableWriter,
        *,
        decode: Callable[[Sequence[int]], str],
        on_documents: Callable[[pa.Table], None],
        on_progress: Callable[[int], None],
    ) -> None:
        self._source, self._decisions, self._shards, self._table = source, decisions, shards, table
        self._decode, self._on_documents, self._on_progress = decode, on_documents, on_progress
        self._documents = np.zeros((len(source.parts), 3), np.int64)  # by part and split, dropped ones too
        self._tokens = np.zeros((len(source.parts), 3), np.int64)
        self._dropped = [Counter[str]() for _ in source.parts]
        self._read = [0] * len(source.parts)
        self._result = Assembled()
        self._late_examples: dict[str, list[dict[str, Any]]] = {}

    def run(self, tasks: Sequence[Path], dtype: npt.DTypeLike) -> Assembled:
        """Assemble the tasks' folders, given in order; `dtype` is the type of their ids."""
        number = 0
        for task in tasks:
            self._add_summary(read_summary(task))
            with (task / TOKENS_FILE).open("rb") as tokens:
                for table in iter_tables(task / DOCUMENTS_FILE):
                    number = self._add_rows(table, number, tokens, np.dtype(dtype))
        self._table.close()
        # Those of single records first, then those of decisions over the whole input, however tasks were cut.
        for reason, examples in self._late_examples.items():
            for example in examples:
                _add_example(self._result.examples, reason, example)
        self._result.shards = self._shards.close()
        self._result.sources = tuple(self._describe_source(part) for part in range(len(self._source.parts)))
        return self._result

    def _add_summary(self, summary: dict[str, Any]) -> None:
        for part, count in summary["read"].items():
            self._read[int(part)] += count
        for part, counts in summary["dropped"].items():
            self._dropped[int(part)].update(counts)
        for reason, examples in summary["examples"].items():
            for example in examples:
                _add_example(self._result.examples, reason, example)

    def _add_rows(self, table: pa.Table, number: int, tokens: Any, dtype: np.dtype[Any]) -> int:
        """Move neighbouring documents; return the number of the one after them."""
        here = slice(number, number + table.num_rows)
        lengths, sizes = (table.column(name).to_numpy() for name in ("tokens", "bytes"))
        splits, parts = self._decisions.splits[here], self._decisions.parts[here]
        kept = splits != DROPPED
        places = np.empty(table.num_rows, PLACE)
        for run in _iter_runs(lengths, splits, parts):
            data = tokens.read(int(lengths[run].sum()) * dtype.itemsize)
            ids = np.frombuffer(data, dtype)
            split, part = int(splits[run.start]), int(parts[run.start])
            self._documents[part, split] += run.stop - run.start
            self._tokens[part, split] += len(ids)
            if split == DROPPED:
                self._count_dropped(table, number, run, part, ids)
            else:
                name = self._source.parts[part].name
                places[run] = self._shards.add(split, name, ids, lengths[run])
                self._result.kept_bytes[split] += int(sizes[run].sum())
            self._on_progress(len(ids))
        names = [name_shard(split, shard) for split, shard in zip(
            splits[kept].tolist(), places["shard"][kept].tolist(), strict=True)]  # fmt: skip
        columns = ([SPLITS[split] for split in splits[kept].tolist()], names)
        placed = self._table.add(
            table, kept, (*columns, places["document"][kept], places["first_token"][kept])
        )
        self._on_documents(placed)
        return number + int(table.num_rows)

    def _count_dropped(
        self, table: pa.Table, number: int, run: slice, part: int, ids: npt.NDArray[Any]
    ) -> None:
        codes = self._decisions.reasons[number + run.start : number + run.stop]
        lengths = table.column("tokens").to_numpy()[run]
        starts = np.cumsum(lengths) - lengths
        for code in np.unique(codes):
            reason = reasons.NAMES[int(code)]
            mine = np.flatnonzero(codes == code)
            self._dropped[part][reason] += len(mine)
            self._result.dropped_tokens[reason] += int(lengths[mine].sum())
            for index in mine[: EXAMPLES_PER_REASON - len(self._late_examples.get(reason, ()))].tolist():
                row = table.slice(run.start + index, 1).to_pylist()[0]
                beginning = ids[starts[index] : starts[index] + min(lengths[index], _EXAMPLE_TOKENS)]
                _add_example(
                    self._late_examples,
                    reason,
                    {
                        "where": row["where"],
                        "pmid": row["pmid"],
                        "pmcid": row["pmcid"],
                        "title": row["title"] or "",
                        "text": self._decode(beginning.tolist()),
                    },
                )

    def _describe_source(self, part: int) -> SourceEntry:
        train, validation, _ = self._documents[part].tolist()
        dropped = dict(sorted(self._dropped[part].items()))
        read = self._read[part]
        assert read == train + validation + sum(dropped.values()), "a document is neither kept nor dropped"
        return SourceEntry(
            name=self._source.parts[part].name,
            weight=self._source.parts[part].weight,
            documents=DocumentCounts(
                read=read, kept=train + validation, train=train, validation=validation, dropped=dropped
            ),
            train_tokens=int(self._tokens[part, TRAIN]),
            validation_tokens=int(self._tokens[part, VALIDATION]),
        )


def _add_example(examples: dict[str, list[dict[str, Any]]], reason: str, example: dict[str, Any]) -> None:
    known = examples.setdefault(reason, [])
    if len(known) < EXAMPLES_PER_REASON:
        known.append(example)


def _iter_runs(
    lengths: npt.NDArray[Any], splits: npt.NDArray[Any], parts: npt.NDArray[Any]
) -> Iterator[slice]:
    """Yield runs of neighbouring documents of one split and source, each of a bounded number of tokens."""
    changes = np.flatnonzero((np.diff(splits) != 0) | (np.diff(parts) != 0)) + 1
    blocks = np.flatnonzero(np.diff(np.cumsum(lengths) // _RUN_TOKENS)) + 1
    cuts = [0, *np.union1d(changes, blocks).tolist(), len(lengths)]
    for start, stop in itertools.pairwise(cuts):
        if stop > start:
            yield slice(start, stop)
