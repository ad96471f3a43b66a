"""Probes laid out in rows of the training's own length, and scored by the model in training on all ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from biomedllama_cli.engine.context_parallel import count_sharers
from biomedllama_cli.engine.rows import IGNORED_LABEL, Batch
from biomedllama_cli.engine.step import forward_losses, move_batch
from biomedllama_cli.engine.tuning_rows import TuningRows
from biomedllama_cli.evaluation.forgetting import bin_positions
from biomedllama_cli.evaluation.token_trees import TokenSequence
from biomedllama_cli.instructions.encoding import EncodedSet
from biomedllama_cli.instructions.packing import Pack, pack

logger = logging.getLogger(__name__)

_TELL_SECONDS = 15.0
"""Between two lines that tell how far a look is."""


class ProbeRows:
    """Token sequences packed into full rows, several in one, each a segment of its own.

    All rows have the training's length: a compiled model, and ranks that share rows, meet no other shape.

    Args:
        sequences: what is scored.
        by_position: numbers of those whose losses are counted by position as well.
        eos_id: stands in padding.
        sequence_length: of a row (in tokens).
        rows_at_once: rows that one rank forwards at once.
    """

    def __init__(
        self,
        sequences: Sequence[TokenSequence],
        by_position: Sequence[int],
        *,
        eos_id: int,
        sequence_length: int,
        rows_at_once: int,
    ) -> None:
        lengths = [len(one.token_ids) for one in sequences]
        trained = [
            np.arange(length) >= length - one.scored for length, one in zip(lengths, sequences, strict=True)
        ]
        encoded = EncodedSet(
            token_ids=np.concatenate([np.array(one.token_ids, dtype=np.uint32) for one in sequences]),
            trained=np.concatenate(trained),
            starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            ids=[""] * len(sequences),
            sources=[""] * len(sequences),
            cut_tokens=np.zeros(len(sequences), dtype=np.int64),
        )
        self._rows = TuningRows(encoded, eos_id=eos_id, sequence_length=sequence_length, pad_to="full")
        self._packs = pack(self._rows.lengths.tolist(), sequence_length)
        self._rows_at_once = rows_at_once
        self._is_binned = np.zeros(len(sequences) + 1, dtype=bool)
        self._is_binned[list(by_position)] = True
        scored = [np.arange(lengths[i] - 1 - sequences[i].scored, lengths[i] - 1) for i in by_position]
        self.position_tokens: npt.NDArray[np.int64] = np.bincount(
            bin_positions(np.concatenate([np.zeros(0, np.int64), *scored]))
        )
        """Scored tokens in each bin of positions, int64 [bins]."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self._is_binned) - 1

    @property
    def positions(self) -> int:
        """Return the tokens that a look forwards, padding included."""
        return len(self._packs) * self._rows.sequence_length

    @torch.no_grad()
    def score(
        self, accelerator: Accelerator, model: torch.nn.Module
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the negative log-likelihood of every sequence and in every bin of positions (in nats).

        Every rank must call it, and all get the same. The model is left in the mode it was in.
        """
        device, count, bins = accelerator.device, len(self), len(self.position_tokens)
        # One place more in each for what belongs to none.
        nats = torch.zeros(count + 1, dtype=torch.float64, device=device)
        by_bin = torch.zeros(bins + 1, dtype=torch.float64, device=device)
        was_training = model.training
        model.eval()
        told = time.monotonic()
        mine = list(self._deal(accelerator, count_sharers(model)))
        for number, packs in enumerate(mine):
            if accelerator.is_main_process and time.monotonic() - told > _TELL_SECONDS:
                logger.info("looking at what is forgotten: %.0f %% done", 100 * number / len(mine))
                told = time.monotonic()
            batch = self._rows.__getitems__(packs)
            owners, places = self._find_places(packs, batch)
            with accelerator.autocast():
                losses = forward_losses(model, move_batch(batch, device)).double().flatten()
            nats.index_add_(0, owners.to(device), losses)
            by_bin.index_add_(0, places.to(device), losses)
        model.train(was_training)
        found = torch.cat([nats[:-1], by_bin[:-1]])
        if accelerator.num_processes > 1:
            torch.distributed.all_reduce(found)
        numbers: npt.NDArray[np.float64] = found.cpu().numpy()
        return numbers[:count], numbers[count:]

    def _deal(self, accelerator: Accelerator, sharers: int) -> Iterator[list[Pack]]:
        """Yield this rank's micro-batches; equally many on every rank, and the same on ranks that share rows."""
        groups, own = accelerator.num_processes // sharers, accelerator.process_index // sharers
        size = self._rows_at_once
        padding: list[Pack] = [[] for _ in range(-len(self._packs) % (groups * size))]
        packs = [*self._packs, *padding]
        for first in range(own * size, len(packs), groups * size):
            yield packs[first : first + size]

    def _find_places(self, packs: Sequence[Pack], batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sequence and bin of every position of a batch, int64 [rows * tokens] each."""
        labels = batch["labels"].numpy()
        owners = np.full(labels.shape, len(self), dtype=np.int64)
        for line, numbers in enumerate(packs):
            if numbers:
                filled = np.repeat(numbers, self._rows.lengths[numbers])
                owners[line, : len(filled)] = filled
        owners[labels == IGNORED_LABEL] = len(self)
        places = np.full(labels.shape, len(self.position_tokens), dtype=np.int64)
        binned = self._is_binned[owners]
        places[binned] = bin_positions(batch["position_ids"].numpy()[binned])
        return torch.from_numpy(owners.ravel()), torch.from_numpy(places.ravel())
