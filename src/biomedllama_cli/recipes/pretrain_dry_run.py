"""`biomedllama pretrain --dry-run`: what would be trained and what it would need, on any machine."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from biomedllama_cli.corpus.manifest import find_newest_corpus
from biomedllama_cli.engine.accelerator import choose_device_type
from biomedllama_cli.engine.context_parallel import check_split
from biomedllama_cli.engine.launch import count_processes
from biomedllama_cli.engine.model_fit import (
    check_model_fits,
    check_positions,
    describe_config,
    find_positions,
)
from biomedllama_cli.engine.order import build_batch_plan
from biomedllama_cli.engine.plan_cost import estimate_steps
from biomedllama_cli.engine.sharding import World, choose_mesh, data_ranks, read_world
from biomedllama_cli.models.load import fit_attention, load_text_config
from biomedllama_cli.models.rope import check_stretched, stretch_positions
from biomedllama_cli.models.scratch import find_bundled_config
from biomedllama_cli.recipes.evaluate_sources import find_result_of_run, refuse_gguf
from biomedllama_cli.recipes.forecast import forecast_run
from biomedllama_cli.recipes.forecast_facts import RunFacts
from biomedllama_cli.recipes.forecast_report import TextFacts
from biomedllama_cli.recipes.pretrain_facts import describe_mesh, describe_run
from biomedllama_cli.recipes.pretrain_plan import Plan, plan_run
from biomedllama_cli.recipes.pretrain_report import PretrainReport, read_versions
from biomedllama_cli.recipes.training import choose_attention
from biomedllama_cli.settings.pretrain import PretrainSettings

logger = logging.getLogger(__name__)

TRUNCATED_LENGTH = 2048
"""Where documents were cut that `plan_truncated_tokens` counts (in tokens)."""


def report_dry_run(settings: PretrainSettings) -> PretrainReport:
    """Return what would be trained, and its plan; no weights are loaded and nothing is written.

    Raises:
        SettingsError: batch, mesh or sequence length do not fit.
        DataError: there is neither a corpus nor `plan_tokens`.
        ModelError: the model's configuration cannot be read, or does not fit the corpus.
    """
    world = plan_cluster(settings)
    if settings.corpus is None and settings.plan.plan_tokens is not None:
        return _report_numbers(settings, world)
    return _report_corpus(plan_run(settings, world))


def plan_cluster(settings: PretrainSettings) -> World:
    """Return the processes to plan for, which need not be here.

    They are those of this job; else those that --nodes and --num-processes name; else those of the plan's section.
    """
    world = read_world()
    if world.world_size > 1:
        return world
    parallel, plan = settings.parallel, settings.plan
    if parallel.num_processes is not None:
        processes, nodes = parallel.num_processes, parallel.nodes
        if plan.plan_nodes not in (None, nodes) and nodes == 1:
            logger.warning(
                "plan: plan_nodes = %d is not used, as --num-processes says how many there are; give --nodes %d too",
                *(plan.plan_nodes, plan.plan_nodes),
            )
    else:
        processes = plan.plan_processes or count_processes(parallel)
        nodes = parallel.nodes if parallel.nodes > 1 else plan.plan_nodes or 1
    return World(nodes * processes, processes)


def choose_planned_device(settings: PretrainSettings) -> str:
    """Return `cuda` or `cpu`: a named device is a GPU wherever the plan is made."""
    if settings.plan.plan_device is not None or settings.parallel.device == "cuda":
        return "cuda"
    return choose_device_type(settings.parallel)


def describe_attention(settings: PretrainSettings, device: str, config: Any) -> str:
    """Return the attention that this model would get, where that can be found out here; else as it was asked for."""
    if device == "cuda" and not torch.cuda.is_available() and settings.parallel.cp_size == 1:
        attention: str = settings.numerics.attention
    else:
        attention = choose_attention(settings.numerics, torch.device(device), settings.parallel.cp_size)
    return fit_attention(config, attention)


def _report_corpus(plan: Plan) -> PretrainReport:
    settings, start, manifest = plan.settings, plan.start, plan.corpus.manifest
    source = str(start.checkpoint or settings.model)
    config = find_bundled_config(source) or load_text_config(
        source, vocabulary_size=manifest.vocabulary_size, bos_id=manifest.bos_id, eos_id=manifest.eos_id
    )
    if start.checkpoint is None:
        stretch_positions(config, settings.positions, settings.batch.sequence_length)
    else:
        check_stretched(config, settings.positions)
    check_model_fits(source, config, manifest, settings.batch.sequence_length)
    device = choose_planned_device(settings)
    attention = describe_attention(settings, device, config)
    facts = RunFacts(
        settings,
        plan.world,
        device,
        attention,
        config,
        count_text(plan),
        plan.order.total_steps,
        count_truncated(plan),
    )
    return PretrainReport(
        status="would continue" if start.checkpoint else "would train",
        checkpoint=start.checkpoint,
        plan=forecast_run(facts),
        **describe_run(plan, describe_config(config), attention, device),
    )


def count_text(plan: Plan) -> TextFacts:
    """Return the tokens of a corpus, and how many of those that are fed have come before."""
    manifest, order = plan.corpus.manifest, plan.order
    mixture = order.mixture
    tokens = dict.fromkeys(mixture.names, 0)
    for entry in manifest.shards:
        if entry.split == "train":
            tokens[entry.source] += entry.tokens
    fed_rows = min(order.positions, order.total_steps * order.global_batch_size)
    epochs = fed_rows / mixture.epoch_length
    passes = [
        (tokens[name], weight * epochs) for name, weight in zip(mixture.names, mixture.weights, strict=True)
    ]
    trained = sum(count * times for count, times in passes)
    unique = sum(count * min(1.0, times) for count, times in passes)
    return TextFacts(
        origin="corpus",
        documents=manifest.documents.train,
        tokens=manifest.tokens.train,
        trained_tokens=trained,
        unique_tokens=unique,
        repeated_tokens=trained - unique,
        left_out_tokens=manifest.tokens.dropped,
    )


def count_truncated(plan: Plan) -> tuple[float, int, float | None]:
    """Return rows, steps and tokens of a corpus with one truncated document per row, epochs and weights counted."""
    settings, mixture = plan.settings, plan.order.mixture
    weights = dict(zip(mixture.names, mixture.weights, strict=True))
    rows = tokens = 0.0
    for source, shard in zip(plan.corpus.list_train_sources(), plan.corpus.train, strict=True):
        lengths = np.diff(np.asarray(shard.document_starts, dtype=np.int64))
        times = weights[source] * settings.duration.epochs
        rows += times * len(lengths)
        tokens += times * float(np.minimum(lengths, settings.batch.sequence_length).sum())
    steps = max(1, -(-round(rows) // settings.batch.global_batch_size))
    if settings.duration.max_steps is not None:
        steps = min(steps, settings.duration.max_steps)
    fed = min(1.0, steps * settings.batch.global_batch_size / rows) if rows else 0.0
    return rows, steps, tokens * fed


def _report_numbers(settings: PretrainSettings, world: World) -> PretrainReport:
    """Plan a corpus of which there are only numbers."""
    settings = settings.model_copy(update={"model": find_result_of_run(settings.model)})
    refuse_gguf(settings.model)
    if (here := find_newest_corpus(settings.workspace)) is not None:
        logger.info("plan: of plan.plan_tokens, as no corpus is named; --corpus %s plans the one here", here)
    length, batch = settings.batch.sequence_length, settings.batch.global_batch_size
    check_split(length, settings.parallel.cp_size)
    mesh = choose_mesh(settings.parallel, world)
    split = build_batch_plan(settings.batch, data_ranks(mesh))
    config = find_bundled_config(settings.model) or load_text_config(settings.model)
    stretch_positions(config, settings.positions, length)
    check_positions(settings.model, find_positions(config), length)
    text, steps, truncated = count_numbers(settings)
    device = choose_planned_device(settings)
    attention = describe_attention(settings, device, config)
    facts = RunFacts(settings, world, device, attention, config, text, steps, truncated)
    return PretrainReport(
        status="would train",
        plan=forecast_run(facts),
        run_folder=settings.output_dir or settings.workspace / "runs" / "pretrain-CORPUS",
        model=settings.model,
        parameters=facts.shape.description.parameters,
        steps=steps,
        sequences=round(text.tokens / length),
        sequence_length=length,
        global_batch_size=batch,
        micro_batch_size=split.micro_batch_size,
        grad_accum_steps=split.grad_accum_steps,
        world_size=world.world_size,
        mesh=describe_mesh(mesh),
        device=device,
        attention=attention,
        settings=settings.model_dump(mode="json"),
        versions=read_versions(),
    )


def count_numbers(
    settings: PretrainSettings,
) -> tuple[TextFacts, int, tuple[float, int, float | None] | None]:
    """Return text, steps and the truncated run of a corpus that is not there yet.

    Where a run ends within its text, all of what it is fed counts as unique as far as there is unique text.
    """
    plan, duration, batch = settings.plan, settings.duration, settings.batch
    assert plan.plan_tokens is not None
    whole = plan.plan_tokens * duration.epochs
    steps = estimate_steps(whole / batch.sequence_length, batch.global_batch_size, duration.max_steps)
    trained = whole
    if duration.max_steps is not None:
        trained = min(whole, float(steps * batch.global_batch_size * batch.sequence_length))
    unique = min(plan.plan_unique_tokens or plan.plan_tokens, trained)
    text = TextFacts(
        origin="settings",
        documents=plan.plan_documents,
        tokens=plan.plan_tokens,
        trained_tokens=trained,
        unique_tokens=unique,
        repeated_tokens=trained - unique,
    )
    if plan.plan_documents is None:
        return text, steps, None
    rows = plan.plan_documents * duration.epochs
    row_steps = estimate_steps(rows, batch.global_batch_size, duration.max_steps)
    tokens = plan.plan_truncated_tokens if batch.sequence_length == TRUNCATED_LENGTH else None
    if tokens is None:
        return text, steps, (rows, row_steps, None)
    if tokens > plan.plan_tokens:
        logger.warning(
            "plan: plan_truncated_tokens = %g is more than plan_tokens = %g, so it is of another corpus: what one "
            "document per row would feed is left out",
            tokens,
            plan.plan_tokens,
        )
        return text, steps, None
    fed = 1.0 if duration.max_steps is None else min(1.0, row_steps * batch.global_batch_size / rows)
    return text, steps, (rows, row_steps, tokens * duration.epochs * fed)
