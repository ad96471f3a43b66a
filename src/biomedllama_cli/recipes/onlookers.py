"""Who looks at a training run: assembled from the settings."""

from __future__ import annotations

from accelerate import Accelerator

from biomedllama_cli.engine.onlookers import Onlookers, Watcher
from biomedllama_cli.engine.sequence_log import SequenceLog
from biomedllama_cli.engine.source_losses import SourceLosses
from biomedllama_cli.engine.spikes import SpikeGate, build_spike_gate
from biomedllama_cli.engine.stragglers import Stragglers
from biomedllama_cli.recipes.general_sets import Training, build_forgetting_meter
from biomedllama_cli.recipes.pretrain_plan import Plan
from biomedllama_cli.recipes.sequence_facts import describe_feeding
from biomedllama_cli.recipes.tracking import open_run_trackers
from biomedllama_cli.recipes.training import TrainingSections
from biomedllama_cli.recipes.tuning_plan import TuningPlan


def build_pretrain_onlookers(plan: Plan, accelerator: Accelerator) -> Onlookers:
    """Return who looks at a run of `pretrain`."""
    gate, watchers = _build_guards(plan.settings, accelerator)
    watchers.append(SourceLosses(plan.order.mixture))
    if accelerator.is_main_process:
        watchers.append(SequenceLog(plan.start.folder, describe_feeding(plan), plan.start.checkpoint))
    steps = plan.order.total_steps
    training = Training(steps, steps * plan.settings.batch.sequence_length * plan.order.global_batch_size)
    forgetting = build_forgetting_meter(plan.settings, plan.corpus, plan.start, training)
    every_setting = plan.settings.model_dump(mode="json")
    return Onlookers(
        gate=gate,
        watchers=watchers,
        meters=() if forgetting is None else (forgetting,),
        sinks=open_run_trackers(plan.settings.monitor, plan.start, every_setting, accelerator),
    )


def build_tuning_onlookers(plan: TuningPlan, accelerator: Accelerator) -> Onlookers:
    """Return who looks at a run of `finetune` or `instruct`."""
    gate, watchers = _build_guards(plan.settings, accelerator)
    return Onlookers(
        gate=gate,
        watchers=watchers,
        sinks=open_run_trackers(plan.settings.monitor, plan.start, plan.every_setting, accelerator),
    )


def _build_guards(
    settings: TrainingSections, accelerator: Accelerator
) -> tuple[SpikeGate | None, list[Watcher]]:
    """Return who refuses updates, and who looks for trouble in every run."""
    monitor = settings.monitor
    gate = build_spike_gate(monitor.spikes, deviations=monitor.spike_deviations, window=monitor.spike_window)
    watchers: list[Watcher] = [] if gate is None else [gate]
    return gate, [*watchers, Stragglers(accelerator, data_workers=settings.parallel.data_workers)]
