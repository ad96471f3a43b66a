"""Rows of fixed length cut from the token stream of a shard, each document in a segment of its own.

Row `i` of a shard has the inputs `tokens[i*T : (i+1)*T]` and the targets `tokens[i*T+1 : (i+1)*T+1]`; no token
is dropped, and every token but the first of a shard is a target once. Inside a row every document is a segment
with positions from 0, from which the models build the block-diagonal mask themselves, provided that no
`attention_mask` is passed.

* Corpora without BOS: the EOS that ends a document is the first input of the next document's segment, so that a
  document's first token is predicted from EOS alone, just as evaluation conditions rolling text on EOS.
* Corpora with BOS: a segment starts at its BOS, and "BOS after EOS" is not a target.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from biomedllama_cli.corpus.shards import Shard
from biomedllama_cli.engine.order import PADDING_SEQUENCE

IGNORED_LABEL = -100
"""Label of a position that is no target."""

Batch = dict[str, torch.Tensor]
"""`input_ids`, `labels`, `position_ids`: int64 [rows, sequence_length]; and of a corpus `row_ids` and `row_checks`,
int64 [rows]: which rows these are, and a checksum of what they hold, for the log of what was trained on."""


class PackedRows(Dataset[Batch]):
    """All rows of some shards, addressed by one running number.

    Args:
        shards: token shards; rows never cross from one to the next.
        sequence_length: length of a row (in tokens).
        eos_id: id of the end-of-sequence token.
        has_bos: whether every document starts with BOS.
    """

    def __init__(self, shards: Sequence[Shard], sequence_length: int, *, eos_id: int, has_bos: bool) -> None:
        self._shards = list(shards)
        self.sequence_length = sequence_length
        self._eos_id, self._has_bos = eos_id, has_bos
        counts = [-(-max(len(shard.token_ids) - 1, 0) // sequence_length) for shard in self._shards]
        self._first_rows = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @property
    def shard_rows(self) -> list[int]:
        """Rows of every shard, in order."""
        return [int(count) for count in np.diff(self._first_rows)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._first_rows[-1])

    def __getitem__(self, index: int) -> Batch:
        """Return one row as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return some rows as one batch; `PADDING_SEQUENCE` gives a row without targets."""
        shape = (len(indices), self.sequence_length)
        input_ids = np.full(shape, self._eos_id, dtype=np.int64)
        labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
        position_ids = np.empty(shape, dtype=np.int64)
        for line, index in enumerate(indices):
            if index == PADDING_SEQUENCE:
                position_ids[line] = np.arange(self.sequence_length)
            else:
                self._fill(index, input_ids[line], labels[line], position_ids[line])
        arrays = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
        arrays["row_ids"] = np.array(indices, dtype=np.int64)
        arrays["row_checks"] = np.array(
            [check_row(*row) for row in zip(input_ids, labels, position_ids, strict=True)], dtype=np.int64
        )
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _fill(
        self,
        index: int,
        input_ids: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        position_ids: npt.NDArray[np.int64],
    ) -> None:
        """Write one row into arrays of length T that hold EOS, the ignored label and nothing."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        shard = self._shards[place]
        first = (index - int(self._first_rows[place])) * self.sequence_length
        stop = min(first + self.sequence_length + 1, len(shard.token_ids))
        tokens = shard.token_ids[first:stop].astype(np.int64)
        count = len(tokens) - 1  # inputs that have a target
        input_ids[:count] = tokens[:-1]
        labels[:count] = tokens[1:]
        segments = self._segment_starts(shard, first, count)
        if self._has_bos:
            labels[segments - 1] = IGNORED_LABEL
        starts = np.zeros(self.sequence_length, dtype=np.int64)
        # The padding tail is a segment of its own, so that no target ever sees it and no mask differs for it.
        marks = np.append(segments, count)
        marks = marks[marks < self.sequence_length]
        starts[marks] = marks
        position_ids[:] = np.arange(self.sequence_length) - np.maximum.accumulate(starts)

    def _segment_starts(self, shard: Shard, first: int, count: int) -> npt.NDArray[np.int64]:
        """Return where segments begin among the places 1..count of a row (count itself only labels its BOS)."""
        shift = 0 if self._has_bos else 1  # without BOS a segment begins at the EOS before its document
        starts = shard.document_starts
        low = np.searchsorted(starts, first + 1 + shift, side="left")
        high = np.searchsorted(starts, first + count + shift, side="right")
        inside = np.asarray(starts[low : min(high, len(starts) - 1)], dtype=np.int64)
        return inside - shift - first


def check_row(*parts: npt.NDArray[np.int64]) -> int:
    """Return the CRC-32 of a row: of its inputs, its labels and its positions.

    >>> check_row(np.array([1, 2]), np.array([2, 3]), np.array([0, 1]))
    3870349605
    """
    check = 0
    for part in parts:
        check = zlib.crc32(np.ascontiguousarray(part).data, check)
    return check
