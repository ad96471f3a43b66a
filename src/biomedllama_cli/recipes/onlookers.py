"""Who looks at a training run: assembled from the settings."""

from __future__ import annotations

from accelerate import Accelerator

from biomedllama_cli.engine.onlookers import Onlookers
from biomedllama_cli.recipes.pretrain_plan import Plan


def build_pretrain_onlookers(plan: Plan, accelerator: Accelerator) -> Onlookers:
    """Return who looks at a run of `pretrain`."""
    return Onlookers()
