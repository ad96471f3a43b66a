"""What the plan of a run says, for programs; `forecast_lines` says it for people."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TextFacts(_Record):
    """The text that is trained on."""

    origin: Literal["corpus", "settings"]
    """Counted in a prepared corpus, or given as numbers."""
    documents: float | None
    """Documents."""
    tokens: float
    """Tokens of the text, whatever the epochs and weights."""
    trained_tokens: float
    """Tokens the run is fed, packed: epochs, weights and --max-steps counted."""
    unique_tokens: float
    """Those of them that are new when they come."""
    repeated_tokens: float
    """Those of them that have come before."""
    left_out_tokens: dict[str, int] = {}
    """Tokens that the corpus does not have any more, by reason (duplicates, ...)."""


class ClusterFacts(_Record):
    """What the run is planned for."""

    device: str
    """Its name, or its kind."""
    nodes: int
    """Nodes."""
    devices_per_node: int
    """Devices, one process each, of a node."""
    devices: int
    """All of them."""
    memory_bytes: float | None
    """Memory of one."""
    peak_flops: float | None
    """FLOP/s of one."""
    bandwidth_inside: float | None
    """Bytes per second one device sends inside its node."""
    bandwidth_across: float | None
    """Bytes per second one node sends to others."""


class ComputePlan(_Record):
    """FLOPs, time and price."""

    flops_per_token: float
    """Forward and backward, attention counted: 6 N + 6 L A T of the weights that multiply."""
    flops: float
    """Of the whole run."""
    plain_flops_per_token: float
    """6 N of all parameters, as published figures count."""
    assumed_mfu: float
    """Share of the peak (a fraction)."""
    formula: str | None
    """How MFU is counted, with its numbers."""
    step_seconds: float | None
    """Of one step with the chosen sharding."""
    days: float | None
    """Of the whole run."""
    plain_days: float | None
    """The same if the MFU were meant as plain 6 N."""
    tokens_per_second_per_device: float | None
    """Tokens."""
    device_hours: float | None
    """Devices x hours."""
    price: float | None
    """At the given price of a device for an hour."""


class TruncatedPlan(_Record):
    """The same text with one truncated document per row, as the published run fed it."""

    rows: float
    """Rows, one for each document."""
    steps: int
    """Optimizer steps."""
    tokens: float | None
    """Tokens that are ever fed."""
    share_of_text: float | None
    """Their share of the tokens that packing feeds (a fraction)."""
    mfu_in_same_time: float | None
    """MFU if that took as long as the packed run (a fraction)."""
    tokens_per_second_per_device: float | None
    """Tokens, if that took as long as the packed run."""


class MemoryParts(_Record):
    """Memory of one rank at its peak (in bytes); the parts add up to the total."""

    weights: int
    """fp32 weights."""
    gathered_weights: int
    """Weights put together for the pass, in its precision."""
    gradients: int
    """fp32 gradients."""
    gradient_reduction: int
    """Gradients on their way."""
    optimizer: int
    """Two fp32 moments."""
    activations: int
    """Kept for the backward pass and needed in between, at the peak."""
    logits: int
    """At the same moment."""
    program: int
    """The process and its libraries, on a CPU."""
    gaps: int
    """Lost between blocks of memory, on a CPU."""
    total: int
    """All of it."""
    logits_peak: int
    """The most that logits take at any moment; no part of the sum."""
    fits: bool | None
    """Whether 90 % of the device's memory is enough, where that is known."""


class StrategyPlan(_Record):
    """One way of sharding."""

    mesh: dict[str, int]
    """Sizes of the mesh axes."""
    memory: dict[str, MemoryParts]
    """By activation checkpointing; empty where it could not be worked out."""
    inside_bytes: int
    """Bytes each device sends inside its node in a step."""
    across_bytes: int
    """Bytes each node sends to others in a step."""
    inside_seconds: float | None
    """Time for that at the given bandwidth."""
    across_seconds: float | None
    """Time for that at the given bandwidth."""
    step_seconds: float | None
    """The longest of computing and sending."""
    bound_by: str | None
    """What a step waits for."""


class DiskPlan(_Record):
    """Checkpoints on disk."""

    checkpoint_bytes: int
    """Of one checkpoint: fp32 weights and two moments."""
    most_checkpoints: int
    """At once, the one being written included."""
    bytes: int
    """Of all of them."""
    host_bytes: int
    """Host memory of the first node, for a copy that is written while training goes on; 0 where it waits."""


class RunPlan(_Record):
    """What a run will need, before it begins."""

    text: TextFacts
    """The text."""
    cluster: ClusterFacts
    """The devices."""
    steps: int
    """Optimizer steps, packed."""
    truncated: TruncatedPlan | None
    """The same text as it was fed in the published run."""
    compute: ComputePlan
    """FLOPs, time and price."""
    sharding: str
    """The chosen way of sharding."""
    activation_checkpointing: str
    """The chosen one."""
    memory: MemoryParts | None
    """Of one rank, as chosen."""
    strategies: dict[str, StrategyPlan]
    """All ways of sharding."""
    fits: bool | None
    """Whether the chosen one fits."""
    change: tuple[str, ...] | None
    """What to change so that it fits and is as fast as it can be: options, and a number of devices last. Empty where it
    fits; null where nothing is known to help, or memory is not known."""
    disk: DiskPlan
    """Checkpoints."""
    notes: tuple[str, ...] = ()
    """What could not be planned, or not exactly, and why."""
