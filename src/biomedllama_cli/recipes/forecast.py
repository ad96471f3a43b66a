"""The plan of a run: what it will need, worked out on any machine, without weights and without a GPU."""

from __future__ import annotations

from functools import partial

from biomedllama_cli.engine.plan_memory import USABLE_SHARE, find_change
from biomedllama_cli.recipes.forecast_cost import plan_compute, plan_disk, plan_truncated
from biomedllama_cli.recipes.forecast_facts import RunFacts
from biomedllama_cli.recipes.forecast_memory import MemoryPlanner
from biomedllama_cli.recipes.forecast_report import RunPlan, StrategyPlan
from biomedllama_cli.recipes.forecast_strategies import choose, list_meshes, plan_strategy, rate


def forecast_run(facts: RunFacts) -> RunPlan:
    """Return what a run will need; nothing is loaded, and nothing written.

    Raises:
        SettingsError: the mesh does not fit the planned processes.
    """
    settings, notes = facts.settings, list[str]()
    planner = MemoryPlanner(facts.shape, settings, facts.attention, on_cpu=facts.device == "cpu")
    strategies = {
        name: plan_strategy(facts, planner, name, mesh, notes) for name, mesh in list_meshes(facts).items()
    }
    chosen = strategies[settings.parallel.sharding]
    memory = chosen.memory.get(settings.numerics.activation_checkpointing)
    if memory is None and {"none", "full"} <= chosen.memory.keys():
        mode = settings.numerics.activation_checkpointing
        notes.append(f"Memory with activation checkpointing {mode} is between that of none and of full.")
    if (exact := _count_exact_steps(facts)) > facts.steps:
        notes.append(
            f"Of mere numbers whole steps are counted, {facts.steps:,} of {exact:,.2f}: a run of the corpus ends with "
            "a part-filled one, which is one more."
        )
    compute = plan_compute(facts, chosen)
    return RunPlan(
        text=facts.text,
        cluster=facts.cluster,
        steps=facts.steps,
        truncated=plan_truncated(facts, compute),
        compute=compute,
        sharding=settings.parallel.sharding,
        activation_checkpointing=settings.numerics.activation_checkpointing,
        memory=memory,
        strategies=strategies,
        fits=memory.fits if memory else None,
        change=_find_change(facts, planner, chosen),
        disk=plan_disk(facts),
        notes=tuple(dict.fromkeys(notes)),
    )


def _count_exact_steps(facts: RunFacts) -> float:
    """Return the steps of mere numbers, with a part of one at the end; 0 of a corpus, or where a run ends before."""
    duration = facts.settings.duration
    if facts.text.origin == "corpus" or facts.steps == duration.max_steps:
        return 0.0
    return facts.text.tokens * duration.epochs / facts.step_tokens


def _find_change(facts: RunFacts, planner: MemoryPlanner, chosen: StrategyPlan) -> tuple[str, ...] | None:
    mode = facts.settings.numerics.activation_checkpointing
    memory = chosen.memory.get(mode)
    if memory is None or memory.fits is None or facts.cluster.memory_bytes is None:
        return None
    if memory.fits:
        return ()
    choice = choose(facts, facts.mesh, facts.settings.parallel.sharding, mode)
    usable = USABLE_SHARE * facts.cluster.memory_bytes
    modes = tuple(chosen.memory)  # those that this model can be trained with
    more = {"most_devices": choice.devices} if facts.device == "cpu" else {}  # more share the same memory
    return find_change(
        choice,
        lambda one: planner.find_memory(one).total,
        usable,
        cost=partial(rate, facts),
        modes=modes,
        **more,
    )
