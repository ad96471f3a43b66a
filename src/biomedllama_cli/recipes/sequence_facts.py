"""What every start of a run notes in its log of sequences: enough to know later what should have been fed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt

from biomedllama_cli.engine.mixture import Mixture
from biomedllama_cli.engine.order import SequenceOrder
from biomedllama_cli.recipes.pretrain_plan import Plan


class MixtureFacts(BaseModel):
    """What one epoch takes of each source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    blocks: tuple[tuple[tuple[int, int], ...], ...]
    weights: tuple[float, ...]


class SequenceFacts(BaseModel):
    """What a start trains on, in what order, and on how many ranks."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    started: str
    world_size: PositiveInt
    data_ranks: PositiveInt
    order: dict[str, Any]
    """What fixes the order, as checkpoints hold it."""
    mixture: MixtureFacts
    global_batch_size: PositiveInt
    positions: PositiveInt
    """Sequences in all, over all epochs."""
    total_steps: PositiveInt
    seed: int
    sequence_length: PositiveInt
    corpora: tuple[Path, ...]
    """Folders that were read."""

    def build_order(self) -> SequenceOrder:
        """Return the sequences of every step."""
        mixture = Mixture(self.mixture.names, self.mixture.blocks, self.mixture.weights)
        return SequenceOrder(mixture, self.global_batch_size, self.positions, self.total_steps, self.seed)

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
