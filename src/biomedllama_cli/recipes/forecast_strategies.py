"""Every way of sharding a planned run: its memory, its traffic, and how long a step takes with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import cast

from biomedllama_cli.engine.plan_cost import StepTime, time_step
from biomedllama_cli.engine.plan_memory import CHECKPOINTING, STRATEGIES, MemoryChoice, RankMemory
from biomedllama_cli.engine.sharding import MeshShape, choose_mesh
from biomedllama_cli.engine.traffic import LinkBytes, count_link_bytes, plan_context_traffic, plan_traffic
from biomedllama_cli.errors import ModelError, SettingsError, UserError
from biomedllama_cli.recipes.forecast_facts import RunFacts
from biomedllama_cli.recipes.forecast_memory import MemoryPlanner, describe_memory
from biomedllama_cli.recipes.forecast_report import MemoryParts, StrategyPlan
from biomedllama_cli.recipes.pretrain_facts import describe_mesh
from biomedllama_cli.settings.pretrain import Strategy

logger = logging.getLogger(__name__)

_PASSES = {"none": 1.0, "selective": 1.0, "full": 4 / 3}
"""FLOPs of a step by activation checkpointing: `selective` makes no product again, `full` those of the forward pass, a
third of both passes."""


def list_meshes(facts: RunFacts) -> dict[str, MeshShape]:
    """Return the mesh of every strategy: as asked for with the chosen one, else as the strategy says."""
    parallel = facts.settings.parallel
    meshes = {}
    if facts.world.world_size == 1:  # nothing to share: they are all the same
        return {parallel.sharding: facts.mesh}
    for name in STRATEGIES:
        other = parallel.model_copy(
            update={"sharding": name, "dp_replicate_size": None, "dp_shard_size": None}
        )
        both_hybrid = name.startswith("hybrid") and parallel.sharding.startswith("hybrid")
        try:
            meshes[name] = (
                facts.mesh if name == parallel.sharding or both_hybrid else choose_mesh(other, facts.world)
            )
        except SettingsError as error:  # replicate with ranks that share sequences, ...
            logger.debug("plan: %s is left out: %s", name, error.message)
    return meshes


def plan_strategy(
    facts: RunFacts, planner: MemoryPlanner, name: str, mesh: MeshShape, notes: list[str]
) -> StrategyPlan:
    """Return memory, traffic and time of one way of sharding; what cannot be planned is noted.

    Args:
        facts: of the run.
        planner: of its memory.
        name: of the strategy.
        mesh: it has.
        notes: for people; added to.
    """
    memory: dict[str, MemoryParts] = {}
    asked_mode = facts.settings.numerics.activation_checkpointing
    for mode in CHECKPOINTING:
        found = _find_memory(planner, choose(facts, mesh, name, mode), asked_mode, notes)
        if found is not None:
            memory[mode] = describe_memory(found, facts.cluster.memory_bytes)
    links = _count_links(facts, choose(facts, mesh, name, asked_mode))
    time = _time(facts, links)
    return StrategyPlan(
        mesh=describe_mesh(mesh),
        memory=memory,
        inside_bytes=links.inside,
        across_bytes=links.across,
        inside_seconds=time.inside,
        across_seconds=time.across,
        step_seconds=time.total,
        bound_by=time.bound if time.compute is not None else None,
    )


def _find_memory(
    planner: MemoryPlanner, choice: MemoryChoice, asked_mode: str, notes: list[str]
) -> RankMemory | None:
    """Return what one rank needs; a model that cannot be rehearsed costs the plan its memory, not all of it.

    Args:
        planner: of memory.
        choice: to plan.
        asked_mode: of activation checkpointing; that a model is not made for another is only noted.
        notes: for people; added to.

    Raises:
        ModelError: the model cannot be trained as asked.
    """
    try:
        return planner.find_memory(choice)
    except ModelError as error:
        if choice.activation_checkpointing == asked_mode:
            raise
        notes.append(
            f"Activation checkpointing {choice.activation_checkpointing} is left out: {error.message}"
        )
    except UserError:
        raise
    except Exception as error:  # a model's own code runs here, on tensors without values
        logger.debug("plan: the step cannot be rehearsed", exc_info=True)
        reason = " ".join(str(error).split())[:200]
        notes.append(
            f"Memory could not be worked out: the step of this model cannot be rehearsed ({reason})."
        )
    return None


def choose(facts: RunFacts, mesh: MeshShape, sharding: str, mode: str) -> MemoryChoice:
    """Return the choice that a strategy and a kind of activation checkpointing are."""
    settings = facts.settings
    shards = (
        mesh.fsdp_size
        if sharding.startswith("hybrid")
        else min(facts.world.local_world_size, mesh.world_size)
    )
    return MemoryChoice(
        sharding,
        mode,
        settings.batch.micro_batch_size,
        settings.numerics.loss_memory,
        shards,
        mesh.world_size,
    )


def rate(facts: RunFacts, choice: MemoryChoice) -> tuple[float, ...]:
    """Return what a choice costs, to be compared: the time of a step, with what is computed again.

    Where that is not known, what crosses nodes comes before what is computed again.
    """
    links, passes = _count_links(facts, choice), _PASSES[choice.activation_checkpointing]
    time = _time(facts, links, passes)
    is_known = time.compute is not None and time.across is not None
    return (
        0 if is_known else links.across,
        passes if time.total is None else time.total,
        links.inside if time.inside is None else 0,
    )


def _count_links(facts: RunFacts, choice: MemoryChoice) -> LinkBytes:
    settings, shape = facts.settings, facts.shape
    if choice.devices == 1:
        return LinkBytes(0, 0)
    context = settings.parallel.cp_size
    ranks = max(choice.ranks, context)
    mesh = MeshShape(choice.devices // ranks, ranks // context, context)
    traffic = plan_traffic(
        shape.groups, mesh, cast(Strategy, choice.sharding), compute_bytes=facts.compute_bytes
    )
    shared = plan_context_traffic(
        mesh,
        layers=shape.description.layers,
        key_value_numbers=choice.micro_batch_size * settings.batch.sequence_length * shape.key_value_size,
        compute_bytes=facts.compute_bytes,
        recomputes=choice.activation_checkpointing == "full",
    )
    every = replace(traffic, each_micro_batch=traffic.each_micro_batch + shared)
    collectives = every.list_all(facts.count_micro_batches(mesh, choice.micro_batch_size))
    return count_link_bytes(collectives, mesh, ranks_per_node=facts.world.local_world_size)


def _time(facts: RunFacts, links: LinkBytes, passes: float = 1.0) -> StepTime:
    cluster = facts.cluster
    return time_step(
        facts.step_tokens,
        passes * facts.flops_per_token,
        devices=cluster.devices,
        peak_flops=cluster.peak_flops,
        mfu=facts.settings.plan.assumed_mfu,
        links=links,
        inside_bandwidth=cluster.bandwidth_inside,
        across_bandwidth=cluster.bandwidth_across,
    )
