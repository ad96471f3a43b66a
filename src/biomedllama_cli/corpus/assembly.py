"""Finished tasks in, a corpus folder out: duplicates removed, split, cut into shards, described."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.deduplication import iter_rows, mark_duplicates
from biomedllama_cli.corpus.manifest import (
    TOKEN_COUNTS_FILE,
    ByteCounts,
    DocumentCounts,
    InputEntry,
    ShardEntry,
    Split,
    TokenCounts,
)
from biomedllama_cli.corpus.shards import ShardWriter
from biomedllama_cli.corpus.split import DUPLICATE, TRAIN, VALIDATION, SplitChooser
from biomedllama_cli.corpus.steps import read_summary

DUPLICATE_REASON = "exact_duplicate"
_RUN_TOKENS = 1 << 21  # tokens moved at once
_SPLITS: tuple[Split, Split] = ("train", "validation")


@dataclass(frozen=True)
class Assembled:
    """What was put into a corpus folder."""

    documents: DocumentCounts
    tokens: TokenCounts
    bytes: ByteCounts
    shards: tuple[ShardEntry, ...]
    inputs: tuple[InputEntry, ...]


def assemble(
    tasks: Sequence[Path],
    folder: Path,
    *,
    dtype: npt.DTypeLike,
    vocabulary_size: int,
    validation_fraction: float,
    shard_tokens: int,
    on_progress: Callable[[int], None] = lambda tokens: None,
) -> Assembled:
    """Write the shards and token counts of a corpus from its tasks, in the order of the input.

    Args:
        tasks: folders of the finished tasks, in order.
        folder: where shards and `token_counts.npy` go; its sibling `scratch` is used meanwhile.
        dtype: type of the ids.
        vocabulary_size: number of ids.
        validation_fraction: share of documents to hold out.
        shard_tokens: most tokens in a shard that holds more than one document.
        on_progress: told the tokens written.
    """
    tables = [task / "table.bin" for task in tasks]
    summaries = [read_summary(task) for task in tasks]
    splits = choose_splits(tables, folder.with_name("scratch"), validation_fraction)
    writer = _CorpusWriter(folder, np.dtype(dtype), vocabulary_size, shard_tokens)
    number = 0
    for task, table in zip(tasks, tables, strict=True):
        with (task / "tokens.bin").open("rb") as tokens:
            for _, rows in iter_rows([table]):
                for run in _iter_runs(rows["tokens"], splits[number : number + len(rows)]):
                    lengths = rows["tokens"][run.start : run.stop]
                    data = tokens.read(int(lengths.sum()) * np.dtype(dtype).itemsize)
                    split = int(splits[number + run.start])
                    writer.add(split, np.frombuffer(data, dtype), rows[run.start : run.stop])
                    on_progress(int(lengths.sum()))
                number += len(rows)
    shards = writer.close()
    dropped: Counter[str] = Counter()
    for summary in summaries:
        dropped.update(summary["dropped"])
    if writer.documents[DUPLICATE]:
        dropped[DUPLICATE_REASON] = writer.documents[DUPLICATE]
    documents = DocumentCounts(
        read=sum(summary["read"] for summary in summaries),
        kept=writer.documents[TRAIN] + writer.documents[VALIDATION],
        train=writer.documents[TRAIN],
        validation=writer.documents[VALIDATION],
        dropped=dict(sorted(dropped.items())),
    )
    assert documents.read == documents.kept + sum(dropped.values()), "a document is neither kept nor dropped"
    repeated = {DUPLICATE_REASON: writer.tokens[DUPLICATE]} if writer.documents[DUPLICATE] else {}
    return Assembled(
        documents,
        TokenCounts(train=writer.tokens[TRAIN], validation=writer.tokens[VALIDATION], dropped=repeated),
        ByteCounts(train=writer.bytes[TRAIN], validation=writer.bytes[VALIDATION]),
        shards,
        tuple(InputEntry(**file) for summary in summaries for file in summary["files"]),
    )


def choose_splits(tables: Sequence[Path], scratch: Path, fraction: float) -> npt.NDArray[np.uint8]:
    """Return TRAIN, VALIDATION or DUPLICATE for every document, mapped from `scratch`."""
    splits = mark_duplicates(tables, scratch)
    chooser = SplitChooser(fraction)
    for number, rows in iter_rows(tables):
        part = splits[number : number + len(rows)]
        part[:] = chooser.split(rows, part, number)
    correction = chooser.correction()
    if correction is not None:
        splits[correction[0]] = correction[1]
    return splits


def _iter_runs(lengths: npt.NDArray[Any], splits: npt.NDArray[Any]) -> Iterator[range]:
    """Yield runs of neighbouring documents of one split, each of a bounded number of tokens."""
    changes = np.flatnonzero(np.diff(splits)) + 1
    blocks = np.flatnonzero(np.diff(np.cumsum(lengths) // _RUN_TOKENS)) + 1
    cuts = [0, *np.union1d(changes, blocks).tolist(), len(lengths)]
    for start, stop in itertools.pairwise(cuts):
        if stop > start:
            yield range(start, stop)


class _CorpusWriter:
    """Open shards of both splits, and what went into them."""

    def __init__(self, folder: Path, dtype: np.dtype[Any], vocabulary_size: int, shard_tokens: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._dtype, self._shard_tokens = folder, dtype, shard_tokens
        self._open: dict[int, ShardWriter] = {}
        self._shard_documents: dict[int, int] = {}
        self._entries: dict[int, list[ShardEntry]] = {TRAIN: [], VALIDATION: []}
        self._counts = np.zeros(vocabulary_size, np.int64)
        self.documents, self.tokens, self.bytes = [0, 0, 0], [0, 0, 0], [0, 0, 0]
        """By split: TRAIN, VALIDATION, DUPLICATE."""

    def add(self, split: int, token_ids: npt.NDArray[Any], rows: npt.NDArray[Any]) -> None:
        """Add neighbouring documents of one split."""
        self.documents[split] += len(rows)
        self.tokens[split] += len(token_ids)
        self.bytes[split] += int(rows["bytes"].sum())
        if split == DUPLICATE:
            return
        if split == TRAIN:
            self._counts += np.bincount(token_ids, minlength=len(self._counts))
        lengths = rows["tokens"]
        while len(lengths):
            writer = self._writer(split, int(lengths[0]))
            # At least one document, or a document longer than a shard would never fit.
            room = self._shard_tokens - writer.tokens
            fitting = max(int(np.searchsorted(np.cumsum(lengths), room, side="right")), 1)
            size = int(lengths[:fitting].sum())
            writer.append_documents(token_ids[:size], lengths[:fitting])
            self._shard_documents[split] += fitting
            token_ids, lengths = token_ids[size:], lengths[fitting:]

    def _writer(self, split: int, next_tokens: int) -> ShardWriter:
        """Return the split's open shard, a new one if the next document does not fit into it."""
        writer = self._open.get(split)
        if writer is not None and writer.tokens and writer.tokens + next_tokens > self._shard_tokens:
            self._finish(split)
            writer = None
        if writer is None:
            name = f"{_SPLITS[split]}-{len(self._entries[split]):05d}"
            writer = self._open[split] = ShardWriter(self._folder / name, self._dtype)
            self._shard_documents[split] = 0
        return writer

    def _finish(self, split: int) -> None:
        writer = self._open.pop(split)
        self._entries[split].append(
            ShardEntry(
                split=_SPLITS[split],
                file=writer.path_prefix.name,
                tokens=writer.tokens,
                documents=self._shard_documents[split],
                sha256=writer.close(),
            )
        )

    def close(self) -> tuple[ShardEntry, ...]:
        """Finish all shards, write the token counts, and return the shards' entries."""
        for split in list(self._open):
            self._finish(split)
        np.save(self._folder / TOKEN_COUNTS_FILE, self._counts)
        return (*self._entries[TRAIN], *self._entries[VALIDATION])
