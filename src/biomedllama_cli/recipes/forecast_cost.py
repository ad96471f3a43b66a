"""Time, price and disk of a planned run."""

from __future__ import annotations

from biomedllama_cli.engine.plan_cost import checkpoint_bytes, count_checkpoints
from biomedllama_cli.models.flops import format_mfu_formula
from biomedllama_cli.recipes.forecast_facts import RunFacts
from biomedllama_cli.recipes.forecast_report import ComputePlan, DiskPlan, StrategyPlan, TruncatedPlan

DAY = 86_400.0


def plan_compute(facts: RunFacts, chosen: StrategyPlan) -> ComputePlan:
    """Return FLOPs, time and price with the chosen sharding."""
    plan, shape, cluster = facts.settings.plan, facts.shape, facts.cluster
    per_token, plain = facts.flops_per_token, 6.0 * shape.description.parameters
    seconds = chosen.step_seconds
    days = None if seconds is None else seconds * facts.steps / DAY
    hours = None if days is None else days * 24 * cluster.devices
    plain_days = None
    if cluster.peak_flops is not None:
        speed = cluster.devices * cluster.peak_flops * plan.assumed_mfu / plain  # tokens per second
        plain_days = facts.steps * facts.step_tokens / speed / DAY
    return ComputePlan(
        flops_per_token=per_token,
        flops=per_token * facts.text.trained_tokens,
        plain_flops_per_token=plain,
        assumed_mfu=plan.assumed_mfu,
        formula=None
        if cluster.peak_flops is None
        else format_mfu_formula(
            matmul_parameters=shape.description.matmul_parameters,
            flops_per_token=per_token,
            peak_flops=cluster.peak_flops,
        ),
        step_seconds=seconds,
        days=days,
        plain_days=plain_days,
        tokens_per_second_per_device=None
        if seconds is None
        else facts.step_tokens / seconds / cluster.devices,
        device_hours=hours,
        price=None
        if hours is None or plan.price_per_device_hour is None
        else hours * plan.price_per_device_hour,
    )


def plan_truncated(facts: RunFacts, compute: ComputePlan) -> TruncatedPlan | None:
    """Return the plan of one truncated document per row, where documents are counted."""
    if facts.truncated is None:
        return None
    rows, steps, tokens = facts.truncated
    share = speed = None
    if tokens is not None:
        share = tokens / facts.text.trained_tokens
        speed = compute.tokens_per_second_per_device and share * compute.tokens_per_second_per_device
    return TruncatedPlan(
        rows=rows,
        steps=steps,
        tokens=tokens,
        share_of_text=share,
        mfu_in_same_time=None
        if speed is None or facts.cluster.peak_flops is None
        else speed * compute.flops_per_token / facts.cluster.peak_flops,
        tokens_per_second_per_device=speed,
    )


def plan_disk(facts: RunFacts) -> DiskPlan:
    """Return what checkpoints take."""
    saving = facts.settings.checkpoint
    size = checkpoint_bytes(facts.shape.description.parameters)
    count = count_checkpoints(
        facts.steps, saving.save_every_steps, saving.keep_checkpoints, saving.keep_every_steps
    )
    in_background = saving.save_in_background
    if in_background is None:
        in_background = facts.device == "cuda"
    host = count_host_bytes(facts, size) if in_background else 0
    return DiskPlan(checkpoint_bytes=size, most_checkpoints=count, bytes=size * count, host_bytes=host)


def count_host_bytes(facts: RunFacts, size: int) -> int:
    """Return the bytes of a checkpoint that the first node writes, and no node writes more."""
    shards = 1 if facts.settings.parallel.sharding == "replicate" else facts.mesh.fsdp_size
    return size * min(shards, facts.world.local_world_size) // shards
