"""What every start of a run notes in its log of sequences: enough to know later what should have been fed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from biomedllama_cli.engine.mixture import Mixture
from biomedllama_cli.engine.order import SequenceOrder
from biomedllama_cli.recipes.pretrain_plan import Plan
from biomedllama_cli.settings.weights import MAX_WEIGHT

_MOST = 2**32
"""Sequences of a corpus, of an epoch or of a run, and steps: what is read may have been written by anybody."""
Count = Annotated[int, Field(gt=0, le=_MOST)]


class MixtureFacts(BaseModel):
    """What one epoch takes of each source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    blocks: tuple[tuple[tuple[int, int], ...], ...]
    weights: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> MixtureFacts:
        """Check that epochs can be made of it."""
        if not len(self.names) == len(self.blocks) == len(self.weights):
            raise ValueError("names, blocks and weights are not of the same sources")
        if not all(math.isfinite(weight) and 0 <= weight <= MAX_WEIGHT for weight in self.weights):
            raise ValueError(f"a weight is no number from 0 to {MAX_WEIGHT}")
        following = 0
        for first, count in sorted(block for blocks in self.blocks for block in blocks):
            if first != following or count < 0:
                raise ValueError("the sequences of the sources do not follow each other")
            following += count
        if following > _MOST or not 0 < self.build().epoch_length <= _MOST:
            raise ValueError("an epoch has no sequence, or too many")
        return self

    def build(self) -> Mixture:
        """Return the mixture."""
        return Mixture(self.names, self.blocks, self.weights)


class SequenceFacts(BaseModel):
    """What a start trains on, in what order, and on how many ranks."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    started: str
    world_size: PositiveInt
    data_ranks: PositiveInt
    order: dict[str, Any]
    """What fixes the order, as checkpoints hold it."""
    mixture: MixtureFacts
    global_batch_size: Annotated[int, Field(gt=0, le=2**26)]
    """Sequences per step; the log has no room for more."""
    positions: Count
    """Sequences in all, over all epochs."""
    total_steps: Count
    seed: int
    sequence_length: Count
    corpora: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Folders that were read."""

    def build_order(self) -> SequenceOrder:
        """Return the sequences of every step."""
        return SequenceOrder(
            self.mixture.build(), self.global_batch_size, self.positions, self.total_steps, self.seed
        )

    def list_differences(self, other: SequenceFacts) -> list[str]:
        """Return the names of what another start of the same run may not differ in, and does."""
        fixed = ("order", "mixture", "global_batch_size", "seed", "sequence_length")
        return [name for name in fixed if getattr(self, name) != getattr(other, name)]


def describe_feeding(plan: Plan) -> dict[str, Any]:
    """Return what this start notes."""
    mixture, order = plan.order.mixture, plan.order
    return {
        "world_size": plan.world.world_size,
        "data_ranks": plan.batch.world_size,
        "order": plan.job.order,
        "mixture": {"names": mixture.names, "blocks": mixture.blocks, "weights": mixture.weights},
        "global_batch_size": order.global_batch_size,
        "positions": order.positions,
        "total_steps": order.total_steps,
        "seed": order.seed,
        "sequence_length": plan.settings.batch.sequence_length,
        "corpora": [str(corpus.folder.resolve()) for corpus in (plan.corpus, *plan.corpus.others)],
    }
