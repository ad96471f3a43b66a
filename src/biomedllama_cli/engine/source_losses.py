"""The training loss of every source of the corpus."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from biomedllama_cli.engine.metrics import SOURCE_LOSS
from biomedllama_cli.engine.mixture import Mixture
from biomedllama_cli.engine.onlookers import StepFacts, Watcher


class SourceLosses(Watcher):
    """Tells the loss of every source in every step that reads some of it.

    A row belongs to one source whole, so its summed loss does too; which rows a step had is what the ranks' batches
    said of themselves.

    Args:
        mixture: which rows are of which source.
    """

    def __init__(self, mixture: Mixture) -> None:
        runs = sorted(
            (first, first + count, source)
            for source, blocks in enumerate(mixture.blocks)
            for first, count in blocks
            if count
        )
        self._names = mixture.names
        self._firsts = np.array([first for first, _, _ in runs], dtype=np.int64)
        self._ends = np.array([end for _, end, _ in runs], dtype=np.int64)
        self._sources = np.array([source for _, _, source in runs], dtype=np.int64)

    def note(self, facts: StepFacts) -> Mapping[str, float]:
        """Return `train/loss/SOURCE`, the mean per target token (in nats), of the sources in the step."""
        runs = np.searchsorted(self._firsts, facts.row_ids, side="right") - 1
        # Padding has the id -1; an id between or after the blocks would be of no source.
        known = (runs >= 0) & (facts.row_ids < self._ends[runs])
        sources, size = self._sources[runs[known]], len(self._names)
        losses = np.bincount(sources, weights=facts.row_losses[known], minlength=size)
        targets = np.bincount(sources, weights=facts.row_targets[known], minlength=size)
        return {
            f"{SOURCE_LOSS}{name}": float(loss / count)
            for name, loss, count in zip(self._names, losses, targets, strict=True)
            if count
        }
