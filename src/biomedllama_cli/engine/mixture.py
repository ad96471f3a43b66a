"""How often one epoch reads each source of a corpus."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_STREAM = 0x9E3779B97F4A7C15  # tells the permutations of a source from those of the epochs


@dataclass(frozen=True)
class Mixture:
    """The sequences of each source, and the passes one epoch makes over them.

    A weight of 2 takes every sequence twice per epoch, 0.5 half of them: the first half of a permutation in one
    epoch, the rest in the next, so that over the epochs no sequence comes more than once oftener than another.

    Attributes:
        names: of the sources.
        blocks: for each source, (first id, sequences) of runs of neighbouring sequences.
        weights: passes per epoch, one for each source.
    """

    names: tuple[str, ...]
    blocks: tuple[tuple[tuple[int, int], ...], ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, runs: Sequence[tuple[str, int]], weights: Mapping[str, float]) -> Mixture:
        """Build a mixture.

        Args:
            runs: (source, sequences) of every shard, in the order of their ids.
            weights: passes per epoch by source; 1 where none is given.

        >>> Mixture.of([("pubmed", 10), ("pmc", 40)], {"pubmed": 2, "pmc": 0.5}).epoch_length
        40
        """
        blocks: dict[str, list[tuple[int, int]]] = {}
        first = 0
        for name, count in runs:
            blocks.setdefault(name, []).append((first, count))
            first += count
        names = tuple(blocks)
        passes = tuple(float(weights.get(name, 1.0)) for name in names)
        return cls(names, tuple(tuple(blocks[name]) for name in names), passes)

    @property
    def counts(self) -> tuple[int, ...]:
        """Sequences of each source."""
        return tuple(sum(count for _, count in blocks) for blocks in self.blocks)

    @property
    def draws(self) -> tuple[int, ...]:
        """Sequences that one epoch takes of each source."""
        # Rounding first: 0.1 * 30 sequences are 3, not the 3.0000000000000004 of binary fractions.
        return tuple(
            math.ceil(round(count * weight, 6))
            for count, weight in zip(self.counts, self.weights, strict=True)
        )

    @property
    def sequence_count(self) -> int:
        """Sequences of all sources."""
        return sum(self.counts)

    @property
    def epoch_length(self) -> int:
        """Sequences of one epoch, repeated ones counted."""
        return sum(self.draws)

    @property
    def is_plain(self) -> bool:
        """Whether one epoch is every sequence once."""
        return all(weight == 1 for weight in self.weights)

    def draw(
        self, seed: int, epoch: int, permute: Callable[[int, int, int], npt.NDArray[np.int64]]
    ) -> npt.NDArray[np.int64]:
        """Return the ids that one epoch takes, source after source, int64 [epoch_length].

        Args:
            seed: of the permutations.
            epoch: counted from 0.
            permute: (sequences, seed, number of the pass) -> permutation.
        """
        parts: list[npt.NDArray[np.int64]] = []
        for source, (blocks, count, draws) in enumerate(
            zip(self.blocks, self.counts, self.draws, strict=True)
        ):
            if count == 0:
                continue
            ids = np.concatenate([np.arange(first, first + size) for first, size in blocks])
            whole, rest = divmod(draws, count)
            parts += itertools.repeat(ids, whole)
            # The fractions of all epochs stand one after the other on a stream of permutations.
            position, end = epoch * rest, (epoch + 1) * rest
            while position < end:
                turn, place = divmod(position, count)
                size = min(count - place, end - position)
                order = permute(count, seed ^ (_STREAM * (source + 1) % 2**64), turn)
                parts.append(ids[order[place : place + size]])
                position += size
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)
