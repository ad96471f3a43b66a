"""Rows made of examples: each in a segment of its own, with loss on its answer alone.

An example's inputs are its tokens but the last, its labels the tokens that follow them where these are learnt.
Positions start anew with every example, and from that the models build the block-diagonal mask themselves, provided
that no `attention_mask` is passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from biomedllama_cli.engine.rows import IGNORED_LABEL, Batch
from biomedllama_cli.instructions.encoding import EncodedSet
from biomedllama_cli.instructions.packing import Pack


class TuningRows(Dataset[Batch]):
    """Batches of packed examples.

    Args:
        encoded: the examples' tokens, and which of them are learnt.
        eos_id: stands in padding; no token that is learnt sees it.
        sequence_length: longest row (in tokens).
        pad_to: `longest` cuts a batch to its longest row, `full` never.
        multiple_of: rows are padded to a multiple of this where the sequence length allows it (in tokens).

    Raises:
        ValueError: an example has fewer than two tokens.
    """

    def __init__(
        self,
        encoded: EncodedSet,
        *,
        eos_id: int,
        sequence_length: int,
        pad_to: Literal["longest", "full"] = "longest",
        multiple_of: int = 1,
    ) -> None:
        self.encoded = encoded
        self.sequence_length = sequence_length
        self.lengths: npt.NDArray[np.int64] = np.diff(encoded.starts) - 1
        """Positions that each example takes (in tokens), int64 [examples]."""
        if len(self) and self.lengths.min() < 1:
            raise ValueError("an example needs two tokens: one to read and one to learn")
        self._eos_id, self._pad_to, self._multiple_of = eos_id, pad_to, multiple_of

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.lengths)

    def __getitem__(self, pack: Pack) -> Batch:
        """Return one row as a batch of one."""
        return self.__getitems__([pack])

    def __getitems__(self, packs: Sequence[Pack]) -> Batch:
        """Return a micro-batch, int64 [rows, width]; an empty pack gives a row without targets."""
        shape = (len(packs), self.width(packs))
        input_ids = np.full(shape, self._eos_id, dtype=np.int64)
        labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
        position_ids = np.empty(shape, dtype=np.int64)
        for line, pack in enumerate(packs):
            self._fill(pack, input_ids[line], labels[line], position_ids[line])
        arrays = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def width(self, packs: Sequence[Pack]) -> int:
        """Return the length of the rows of a micro-batch (in tokens)."""
        if self._pad_to == "full":
            return self.sequence_length
        longest = max((int(self.lengths[pack].sum()) for pack in packs if pack), default=1)
        return min(-(-longest // self._multiple_of) * self._multiple_of, self.sequence_length)

    def _fill(
        self,
        pack: Pack,
        input_ids: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        position_ids: npt.NDArray[np.int64],
    ) -> None:
        """Write one row into arrays that hold EOS, the ignored label and nothing."""
        encoded = self.encoded
        # Padding goes on with the last example's positions. Nothing before it can see it, and a row of a single example
        # stays one segment, for which causal attention needs no mask.
        position_ids[:] = np.arange(len(position_ids))
        end = 0
        for example in pack:
            first, stop = int(encoded.starts[example]), int(encoded.starts[example + 1])
            row = slice(end, end + stop - first - 1)
            token_ids = np.asarray(encoded.token_ids[first:stop], dtype=np.int64)
            input_ids[row] = token_ids[:-1]
            labels[row] = np.where(encoded.trained[first + 1 : stop], token_ids[1:], IGNORED_LABEL)
            position_ids[end:] = np.arange(len(position_ids) - end)
            end = row.stop
