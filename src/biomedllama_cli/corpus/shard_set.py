"""The shards of a corpus while they are written: one open for each split and source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.manifest import TOKEN_COUNTS_FILE, ShardEntry, Split
from biomedllama_cli.corpus.shards import ShardWriter
from biomedllama_cli.corpus.split import TRAIN

SPLITS: tuple[Split, Split] = ("train", "validation")
PLACE = np.dtype([("shard", "<i4"), ("document", "<i8"), ("first_token", "<i8")])
"""Where a document lies: number of its shard in the split, its number in the shard, its first token there."""


class ShardSet:
    """Open shards, and what went into them.

    Args:
        folder: where they are written.
        dtype: type of the ids.
        vocabulary_size: number of ids.
        shard_tokens: most tokens in a shard that holds more than one document.
    """

    def __init__(self, folder: Path, dtype: npt.DTypeLike, vocabulary_size: int, shard_tokens: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._dtype, self._shard_tokens = folder, np.dtype(dtype), shard_tokens
        self._open: dict[tuple[int, str], tuple[int, ShardWriter, int]] = {}
        self._entries: list[dict[int, ShardEntry]] = [{}, {}]
        self._numbers = [0, 0]
        self._counts = np.zeros(vocabulary_size, np.int64)

    def add(
        self, split: int, source: str, token_ids: npt.NDArray[Any], lengths: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Add neighbouring documents of one split and source, and return their places (rows of `PLACE`)."""
        if split == TRAIN:
            self._counts += np.bincount(token_ids, minlength=len(self._counts))
        places = np.empty(len(lengths), PLACE)
        done = 0
        while done < len(lengths):
            number, writer, documents = self._choose_shard(split, source, int(lengths[done]))
            # At least one document, or a document longer than a shard would never fit.
            ends = np.cumsum(lengths[done:])
            room = self._shard_tokens - writer.tokens
            fitting = max(int(np.searchsorted(ends, room, side="right")), 1)
            here = slice(done, done + fitting)
            places["shard"][here] = number
            places["document"][here] = np.arange(documents, documents + fitting)
            places["first_token"][here] = writer.tokens + ends[:fitting] - lengths[here]
            size = int(ends[fitting - 1])
            writer.append_documents(token_ids[:size], lengths[here])
            self._open[split, source] = (number, writer, documents + fitting)
            token_ids, done = token_ids[size:], done + fitting
        return places

    def _choose_shard(self, split: int, source: str, next_tokens: int) -> tuple[int, ShardWriter, int]:
        """Return the open shard, a new one if the next document does not fit into it."""
        shard = self._open.get((split, source))
        if shard is not None and shard[1].tokens and shard[1].tokens + next_tokens > self._shard_tokens:
            self._finish(split, source)
            shard = None
        if shard is None:
            number = self._numbers[split]
            self._numbers[split] += 1
            writer = ShardWriter(self._folder / name_shard(split, number), self._dtype)
            shard = self._open[split, source] = (number, writer, 0)
        return shard

    def _finish(self, split: int, source: str) -> None:
        number, writer, documents = self._open.pop((split, source))
        self._entries[split][number] = ShardEntry(
            split=SPLITS[split],
            source=source,
            file=writer.path_prefix.name,
            tokens=writer.tokens,
            documents=documents,
            sha256=writer.close(),
        )

    def close(self) -> tuple[ShardEntry, ...]:
        """Finish all shards, write the token counts, and return the shards' entries in order."""
        for split, source in list(self._open):
            self._finish(split, source)
        np.save(self._folder / TOKEN_COUNTS_FILE, self._counts)
        return tuple(entries[number] for entries in self._entries for number in sorted(entries))


def name_shard(split: int, number: int) -> str:
    """Return a shard's file name without its ending.

    >>> name_shard(0, 3)
    'train-00003'
    """
    return f"{SPLITS[split]}-{number:05d}"
