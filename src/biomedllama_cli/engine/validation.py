"""Held-out loss and bits per byte during a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator

from biomedllama_cli.corpus.manifest import Corpus
from biomedllama_cli.corpus.shards import Shard
from biomedllama_cli.engine.context_parallel import count_sharers
from biomedllama_cli.engine.device_mesh import read_mesh
from biomedllama_cli.engine.order import PADDING_SEQUENCE
from biomedllama_cli.engine.rows import Batch, PackedRows
from biomedllama_cli.engine.sharding import data_rank, data_ranks
from biomedllama_cli.engine.step import count_targets, forward_losses, move_batch
from biomedllama_cli.evaluation.baselines import unigram_bits_per_byte


@dataclass(frozen=True)
class Validation:
    """One look at what is held out.

    Attributes:
        loss: mean negative log-likelihood per target token (in nats).
        bits_per_byte: bits per UTF-8 byte of held-out text; None for answers.
    """

    loss: float
    bits_per_byte: float | None = None


class Validator:
    """Score the validation split, or an evenly spaced part of it, with the model in training.

    Args:
        rows: rows of the validation shards.
        split_target_tokens: target tokens of the whole split.
        split_bytes: UTF-8 bytes of the whole split's text.
        micro_batch_size: rows one rank forwards at once.
        max_sequences: rows used at most; None takes all.
    """

    def __init__(
        self,
        rows: PackedRows,
        *,
        split_target_tokens: int,
        split_bytes: int,
        micro_batch_size: int,
        max_sequences: int | None,
    ) -> None:
        self._rows = rows
        self._tokens_per_byte = split_target_tokens / split_bytes
        self._micro_batch_size = micro_batch_size
        count = min(len(rows), max_sequences or len(rows))
        self._ids = np.arange(count) * len(rows) // count
        self.is_sampled = count < len(rows)

    def run(self, accelerator: Accelerator, model: torch.nn.Module) -> Validation:
        """Score the rows on all ranks; every rank must call it, and all get the same result."""
        mesh = read_mesh(accelerator)
        rank, ranks = data_rank(mesh, accelerator.process_index), data_ranks(mesh)
        padding = np.full(-len(self._ids) % (self._micro_batch_size * ranks), PADDING_SEQUENCE)
        shape = (-1, ranks, self._micro_batch_size)  # every rank forwards equally often
        mine = np.concatenate([self._ids, padding]).reshape(shape)[:, rank]
        batches = map(self._rows.__getitems__, mine.tolist())
        loss = score_held_out(accelerator, model, batches)
        return Validation(loss, bits_per_byte(loss, self._tokens_per_byte))


@torch.no_grad()
def score_held_out(accelerator: Accelerator, model: torch.nn.Module, batches: Iterable[Batch]) -> float:
    """Return the mean loss per target token (in nats) over the batches of all ranks.

    Args:
        accelerator: every rank must call this, with equally many batches, and all get the same result.
        model: left in the mode it was in.
        batches: of this rank.
    """
    totals = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    was_training = model.training
    model.eval()
    for batch in batches:
        totals[1] += count_targets([batch]) / count_sharers(model)
        with accelerator.autocast():
            totals[0] += forward_losses(model, move_batch(batch, accelerator.device)).sum()
    model.train(was_training)
    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(totals)
    nats, target_tokens = totals.tolist()
    return float(nats / target_tokens)


def build_validator(
    corpus: Corpus, *, sequence_length: int, micro_batch_size: int, max_sequences: int | None
) -> Validator | None:
    """Build the validator of a corpus, or None when it holds nothing out."""
    manifest = corpus.manifest
    rows = PackedRows(corpus.validation, sequence_length, eos_id=manifest.eos_id, has_bos=manifest.adds_bos)
    if not len(rows) or not manifest.bytes.validation:
        return None
    return Validator(
        rows,
        split_target_tokens=count_split_targets(corpus.validation, has_bos=manifest.adds_bos),
        split_bytes=manifest.bytes.validation,
        micro_batch_size=micro_batch_size,
        max_sequences=max_sequences,
    )


def score_unigram(corpus: Corpus) -> float | None:
    """Return the held-out bits per byte of a unigram model of the training tokens, on the same targets."""
    manifest = corpus.manifest
    if not manifest.bytes.validation:
        return None
    return unigram_bits_per_byte(
        corpus.load_token_counts(),
        corpus.validation,
        manifest.bytes.validation,
        bos_id=manifest.bos_id if manifest.adds_bos else None,
    )


def bits_per_byte(loss: float, tokens_per_byte: float) -> float:
    """Return bits per byte for a mean loss per target token.

    Over the whole split this is the summed loss / ln 2 / bytes exactly; over a part of it, an estimate by the
    tokens per byte of the whole.

    Args:
        loss: mean negative log-likelihood per target token (in nats).
        tokens_per_byte: target tokens per UTF-8 byte.

    >>> bits_per_byte(math.log(2) * 4, tokens_per_byte=0.25)
    1.0
    """
    return loss / math.log(2) * tokens_per_byte


def count_split_targets(shards: Sequence[Shard], *, has_bos: bool) -> int:
    """Return the target tokens of whole shards: all but the first of each, and but the BOS of every document."""
    total = 0
    for shard in shards:
        documents = len(shard.document_starts) - 1
        total += max(len(shard.token_ids) - (documents if has_bos else 1), 0)
    return total
