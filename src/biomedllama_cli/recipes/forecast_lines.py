"""The plan of a run, for people."""

from __future__ import annotations

from biomedllama_cli.engine.plan_cost import GIB
from biomedllama_cli.recipes.forecast_report import RunPlan, StrategyPlan

_PARTS = (
    ("weights", "weights"),
    ("gathered_weights", "gathered weights"),
    ("gradients", "gradients"),
    ("gradient_reduction", "gradients on their way"),
    ("optimizer", "optimizer"),
    ("activations", "activations"),
    ("logits", "logits"),
    ("program", "program"),
    ("gaps", "gaps between blocks"),
)
_NO_NUMBER = "-"


def format_tokens(number: float) -> str:
    """Return a number of tokens as people say it.

    >>> format_tokens(63e9), format_tokens(21.04e9), format_tokens(4_194_304), format_tokens(512)
    ('63.0B', '21.0B', '4.2M', '512')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:,.0f}"


def format_time(seconds: float) -> str:
    """Return a time in the unit that fits.

    >>> format_time(0.5), format_time(257.2), format_time(7200), format_time(604800)
    ('0.50 s', '257 s', '2.0 hours', '7.0 days')
    """
    if seconds < 100:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} hours" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} days"


def format_plan(plan: RunPlan) -> list[str]:
    """Return the plan as lines for a terminal."""
    return [
        *_text_lines(plan),
        *_time_lines(plan),
        *_memory_lines(plan),
        *_traffic_lines(plan),
        _disk_line(plan),
        *plan.notes,
    ]


def _text_lines(plan: RunPlan) -> list[str]:
    text, cluster = plan.text, plan.cluster
    memory = "" if cluster.memory_bytes is None else f", {cluster.memory_bytes / GIB:.1f} GiB each"
    lines = [
        f"Planned for {cluster.nodes} x {cluster.devices_per_node} {cluster.device}{memory}.",
        f"Tokens: {format_tokens(text.trained_tokens)} are trained on, {format_tokens(text.unique_tokens)} unique and "
        f"{format_tokens(text.repeated_tokens)} repeated.",
        f"Steps: {plan.steps:,}, packed.",
    ]
    if plan.truncated is not None:
        cut, line = plan.truncated, ""
        line = f"One truncated document per row instead: {cut.steps:,} steps (about {round(cut.steps, -2):,})"
        line = line if cut.steps >= 1000 else line.split(" (about")[0]
        if cut.tokens is not None and cut.share_of_text is not None:
            line += f", {format_tokens(cut.tokens)} tokens ever fed, {cut.share_of_text:.0%} of them"
        if cut.mfu_in_same_time is not None:
            line += f"; in the same time that is an MFU of {cut.mfu_in_same_time:.0%}"
        lines.append(line + ".")
    return lines


def _time_lines(plan: RunPlan) -> list[str]:
    compute, cluster = plan.compute, plan.cluster
    flops = f"Compute: {compute.flops:.3g} FLOP, {compute.flops_per_token / 1e9:.4g} GFLOP per token."
    if compute.days is None or compute.step_seconds is None or compute.device_hours is None:
        return [
            flops,
            "Time: not known without the device's peak; give --peak-flops, or --plan-device (bf16 and fp16).",
        ]
    chosen = plan.strategies[plan.sharding]
    price = "" if compute.price is None else f", price {compute.price:,.0f}"
    lines = [
        flops,
        f"Time: {format_time(compute.days * 86_400)} at {compute.assumed_mfu:.0%} MFU, "
        f"{format_time(compute.step_seconds)} per step, {compute.tokens_per_second_per_device:,.0f} tokens/s per "
        f"device; {compute.device_hours:,.0f} device-hours{price}.",
    ]
    if chosen.bound_by == "computing" and compute.plain_days is not None:
        lines.append(
            f"  {compute.formula}; were the MFU meant as plain 6 N of all parameters, "
            f"{format_time(compute.plain_days * 86_400)}."
        )
    else:
        lines.append(f"  A step waits for {chosen.bound_by}, not for computing.")
    if cluster.nodes > 1 and cluster.bandwidth_across is None:
        lines.append("  Traffic across nodes is not in it: give --bandwidth-across.")
    return lines


def _choose_unit(most: int) -> tuple[str, int]:
    """Return the unit that numbers of bytes are shown in, by the largest of them.

    >>> _choose_unit(3 << 30), _choose_unit(3 << 20)
    (('GiB', 1073741824), ('MiB', 1048576))
    """
    return ("GiB", GIB) if most >= GIB else ("MiB", GIB >> 10)


def _memory_lines(plan: RunPlan) -> list[str]:
    lines = []
    totals = [found.total for one in plan.strategies.values() for found in one.memory.values()]
    unit, size = _choose_unit(max(totals, default=0))
    sharding = "" if plan.cluster.devices == 1 else f" with {plan.sharding}"
    if plan.memory is not None:
        parts = ", ".join(
            f"{name} {getattr(plan.memory, field) / size:.2f}"
            for field, name in _PARTS
            if getattr(plan.memory, field)
        )
        lines.append(
            f"Memory per device{sharding}, activation checkpointing {plan.activation_checkpointing}: "
            f"{plan.memory.total / size:.1f} {unit} ({parts}; logits at most {plan.memory.logits_peak / size:.2f})."
        )
    modes = list(dict.fromkeys(mode for one in plan.strategies.values() for mode in one.memory))
    if modes:
        lines.append(f"{unit} per device by activation checkpointing (! does not fit):")
        lines.append(f"  {'sharding':<14}" + "".join(f"{mode:>12}" for mode in modes))
        lines += [_memory_row(name, one, modes, size) for name, one in plan.strategies.items()]
    if plan.fits:
        lines.append("It fits.")
    elif plan.fits is False and plan.change:
        options = " ".join(one for one in plan.change if one.startswith("--"))
        devices = [one for one in plan.change if not one.startswith("--")]
        named = " with ".join(filter(None, (options, *devices)))
        lines.append(f"It does not fit. What makes it fit: {named}.")
    elif plan.fits is False:
        lines.append("It does not fit, and no setting known here makes it fit.")
    return lines


def _memory_row(name: str, one: StrategyPlan, modes: list[str], unit_bytes: int) -> str:
    cells = []
    for mode in modes:
        found = one.memory.get(mode)
        mark = "!" if found is not None and found.fits is False else " "
        cells.append(f"{_NO_NUMBER:>11} " if found is None else f"{found.total / unit_bytes:>11.1f}{mark}")
    return f"  {name:<14}" + "".join(cells)


def _traffic_lines(plan: RunPlan) -> list[str]:
    if plan.cluster.devices == 1:
        return []
    lines = [
        "Traffic of one step, by sharding:",
        f"  {'':<14}{'inside, GB per device':>24}{'across, GB per node':>24}{'step takes':>14}",
    ]
    for name, one in plan.strategies.items():
        inside, across = (
            _format_sent(one.inside_bytes, one.inside_seconds),
            _format_sent(one.across_bytes, one.across_seconds),
        )
        step = _NO_NUMBER if one.step_seconds is None else format_time(one.step_seconds)
        lines.append(f"  {name:<14}{inside:>24}{across:>24}{step:>14}")
    return lines + _compare(plan)


def _format_sent(sent: int, seconds: float | None) -> str:
    time = "" if seconds is None or sent == 0 else f" ({format_time(seconds)})"
    return f"{sent / 1e9:,.1f}{time}"


def _compare(plan: RunPlan) -> list[str]:
    """Say why copies across nodes beat full sharding, or do not."""
    chosen = plan.sharding if plan.sharding.startswith("hybrid") else "hybrid"
    hybrid, full = plan.strategies.get(chosen), plan.strategies.get("full")
    bandwidth = plan.cluster.bandwidth_across
    if hybrid is None or full is None or bandwidth is None or plan.cluster.nodes == 1:
        return []
    if hybrid.across_seconds is None or full.across_seconds is None or hybrid.step_seconds is None:
        return []
    if full.step_seconds is None:
        return []
    if full.step_seconds <= hybrid.step_seconds:
        if full.bound_by != "computing":
            return [
                f"At {bandwidth / 1e9:g} GB/s between nodes full sharding ({format_time(full.step_seconds)} a step) is "
                f"no slower than {chosen} ({format_time(hybrid.step_seconds)}); with both a step waits for sending."
            ]
        return [
            f"At {bandwidth / 1e9:g} GB/s between nodes the traffic of full sharding "
            f"({format_time(full.across_seconds)}) hides behind computing, as that of {chosen} "
            f"({format_time(hybrid.across_seconds)}) does."
        ]
    return [
        f"Why {chosen} beats full: at {bandwidth / 1e9:g} GB/s between nodes it sends gradients once a step "
        f"({format_time(hybrid.across_seconds)}), full gathers weights and scatters gradients in every micro-batch "
        f"({format_time(full.across_seconds)}): a step takes {format_time(hybrid.step_seconds)} instead of "
        f"{format_time(full.step_seconds)}, {full.step_seconds / hybrid.step_seconds:.1f} times as long."
    ]


def _disk_line(plan: RunPlan) -> str:
    disk = plan.disk
    unit, size = _choose_unit(disk.bytes)
    host = f" Saved in the background from {disk.host_bytes / size:.1f} {unit} of a node's host memory."
    return (
        f"Checkpoints: {disk.checkpoint_bytes / size:.1f} {unit} each, at most {disk.most_checkpoints} at once "
        f"({disk.bytes / size:.1f} {unit} of disk).{host if disk.host_bytes else ''}"
    )
