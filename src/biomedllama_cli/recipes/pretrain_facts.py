"""What a report says of a run before it begins."""

from __future__ import annotations

from typing import Any

from biomedllama_cli.engine.sharding import MeshShape, choose_mesh
from biomedllama_cli.models.description import ModelDescription
from biomedllama_cli.recipes.pretrain_plan import Plan
from biomedllama_cli.recipes.pretrain_report import read_versions


def describe_run(plan: Plan, description: ModelDescription, attention: str, device: str) -> dict[str, Any]:
    """Return the facts of a report that are known before the run."""
    settings = plan.settings
    mesh = choose_mesh(settings.parallel, plan.world)
    return {
        "run_folder": plan.start.folder,
        "corpus": plan.corpus.folder,
        "model": settings.model,
        "parameters": description.parameters,
        "steps": plan.order.total_steps,
        "resumed_step": plan.start.progress.step if plan.start.progress else None,
        "sequences": plan.order.sequence_count,
        "mixture": dict(zip(plan.order.mixture.names, plan.order.mixture.weights, strict=True)),
        "sequence_length": settings.batch.sequence_length,
        "global_batch_size": plan.batch.global_batch_size,
        "micro_batch_size": plan.batch.micro_batch_size,
        "grad_accum_steps": plan.batch.grad_accum_steps,
        "world_size": plan.world.world_size,
        "mesh": describe_mesh(mesh),
        "device": device,
        "attention": attention,
        "settings": settings.model_dump(mode="json"),
        "versions": read_versions(),
    }


def describe_mesh(mesh: MeshShape) -> dict[str, int]:
    """Return the sizes of the mesh axes, that of shared sequences only where there are any.

    >>> describe_mesh(MeshShape(8, 4))
    {'dp_replicate': 8, 'dp_shard': 4}
    """
    context = {"cp": mesh.cp_size} if mesh.cp_size > 1 else {}
    return {"dp_replicate": mesh.dp_replicate_size, "dp_shard": mesh.dp_shard_size} | context
