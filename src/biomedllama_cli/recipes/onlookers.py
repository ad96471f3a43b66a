"""Who looks at a training run: assembled from the settings."""

from __future__ import annotations

from accelerate import Accelerator

from biomedllama_cli.engine.onlookers import Onlookers, Watcher
from biomedllama_cli.engine.sequence_log import SequenceLog
from biomedllama_cli.recipes.general_sets import build_forgetting_meter
from biomedllama_cli.recipes.pretrain_plan import Plan
from biomedllama_cli.recipes.sequence_facts import describe_feeding


def build_pretrain_onlookers(plan: Plan, accelerator: Accelerator) -> Onlookers:
    """Return who looks at a run of `pretrain`."""
    watchers: list[Watcher] = []
    if accelerator.is_main_process:
        watchers.append(SequenceLog(plan.start.folder, describe_feeding(plan), plan.start.checkpoint))
    forgetting = build_forgetting_meter(plan.settings, plan.corpus, plan.start)
    return Onlookers(watchers=watchers, meters=() if forgetting is None else (forgetting,))
