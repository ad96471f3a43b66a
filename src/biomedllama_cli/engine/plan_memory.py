"""Memory of one rank, part by part, for every way of sharding: pure functions of the shapes of a model's parameters.

FSDP keeps the fp32 weights, gradients and moments of a rank's shards, and gathers the weights of one group after the
other (a decoder layer, the embeddings, the output table) in the precision of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

from biomedllama_cli.engine.plan_step import StepMemory
from biomedllama_cli.engine.traffic import ParameterGroup, pad_shard
from biomedllama_cli.settings.pretrain import NumericsSettings, Strategy

STRATEGIES: tuple[str, ...] = get_args(Strategy)
CHECKPOINTING: tuple[str, ...] = get_args(
    NumericsSettings.model_fields["activation_checkpointing"].annotation
)

USABLE_SHARE = 0.90
"""Share of a device's memory that a plan may fill: predictions were up to 8.2 % below what was measured, and the rest
goes to the CUDA context, to buffers of collectives and to gaps between tensors."""

GAP_SHARE = 0.58
"""Memory that glibc's heap loses to gaps, as a share of activations in small blocks, where a step has several
micro-batches: 0.42 to 0.82 in runs of 15 and 110 million parameters (fp32 and bf16, rows of 512 to 2,048 tokens; glibc
2.36). An aligned block does not fit the gap that an equal one has left."""
GAP_SHARE_OF_ONE = 0.2
"""The same where a step has one micro-batch: 0.10 to 0.44. Its gradients go beside the activations, as those of several
do: they do not fit the gaps either that activations leave as they are freed."""

_FP32_BYTES = 4
_HYBRID_SAVINGS = {"replicate": ("hybrid-zero2", "hybrid"), "hybrid-zero2": ("hybrid",)}


@dataclass(frozen=True)
class StateMemory:
    """What a rank holds beside the pass itself (in bytes).

    Attributes:
        weights: fp32 weights, or this rank's shards of them.
        gathered: weights put together for the pass, in its precision.
        gradients: fp32.
        reduction: gradients on their way to the ranks that keep them.
        optimizer: two fp32 moments.
    """

    weights: int
    gathered: int
    gradients: int
    reduction: int
    optimizer: int

    @property
    def total(self) -> int:
        """Return all of it (in bytes)."""
        return self.weights + self.gathered + self.gradients + self.reduction + self.optimizer


def plan_state(
    groups: Sequence[ParameterGroup], strategy: str, ranks: int, compute_bytes: int
) -> StateMemory:
    """Return what a rank holds of weights, gradients and optimizer states.

    Args:
        groups: of the model.
        strategy: `full`, `hybrid`, `hybrid-zero2`, or `replicate`, which one process is as well.
        ranks: that one copy is sharded over; of no effect with `replicate`.
        compute_bytes: bytes of a number in the pass.

    LLaMA-7B on a node of 4: 16 bytes for each of 1.68e9 parameters, and all of them once more in bf16.

    >>> layer = ((4096, 4096),) * 4 + ((11008, 4096),) * 2 + ((4096, 11008), (4096,), (4096,))
    >>> llama = [((32000, 4096),), *[layer] * 32, ((4096,), (32000, 4096))]
    >>> found = plan_state([ParameterGroup(shapes) for shapes in llama], "hybrid-zero2", 4, 2)
    >>> [round(part / 2**30, 1) for part in (found.weights, found.gradients, found.optimizer, found.gathered)]
    [6.3, 6.3, 12.6, 12.9]
    """
    if strategy == "replicate":
        whole = _FP32_BYTES * sum(group.numbers for group in groups)
        return StateMemory(whole, 0, whole, 0, 2 * whole)
    shards = [sum(pad_shard(shape, ranks) for shape in group.shapes) for group in groups]
    held, sizes = _FP32_BYTES * sum(shards), [ranks * shard for shard in shards]
    largest = max(sizes)
    # The collective writes into one buffer, from which parameters are copied; the next group comes meanwhile.
    together = sum(sizes) if strategy == "hybrid-zero2" else sum(sorted(sizes)[-2:])
    gathered = compute_bytes * (together + largest)
    # A group's whole gradients, and their fp32 copy that is reduced.
    return StateMemory(held, gathered, held, (compute_bytes + _FP32_BYTES) * largest, 2 * held)


@dataclass(frozen=True)
class RankMemory:
    """All that one rank needs.

    Attributes:
        state: weights, gradients, optimizer.
        step: activations and logits.
        program: the process itself with its libraries (in bytes); 0 where the device is not the host.
        gaps: that the C library leaves between blocks (in bytes); 0 where the device is not the host.
    """

    state: StateMemory
    step: StepMemory
    program: int = 0
    gaps: int = 0

    @property
    def total(self) -> int:
        """Return the peak (in bytes)."""
        return self.state.total + self.step.total + self.program + self.gaps


@dataclass(frozen=True)
class MemoryChoice:
    """The settings that decide how much memory a rank needs.

    Attributes:
        sharding: strategy.
        activation_checkpointing: none, selective or full.
        micro_batch_size: sequences at once.
        loss_memory: fused, chunks or plain.
        shards: ranks that one copy is sharded over with `hybrid`.
        devices: of the job, over which `full` shards.
    """

    sharding: str
    activation_checkpointing: str
    micro_batch_size: int
    loss_memory: str
    shards: int
    devices: int

    @property
    def ranks(self) -> int:
        """Return the ranks that one copy is sharded over."""
        return {"full": self.devices, "replicate": 1}.get(self.sharding, self.shards)


def list_choices(choice: MemoryChoice, modes: Sequence[str] = CHECKPOINTING) -> Iterator[MemoryChoice]:
    """Yield a choice and all that save memory with the same devices, the mildest first.

    Args:
        choice: to be changed.
        modes: of activation checkpointing, weakest first.

    >>> start = MemoryChoice("hybrid-zero2", "none", 2, "plain", 4, 32)
    >>> single = [flags for one in list_choices(start) if len(flags := name_changes(start, one)) == 1]
    >>> [flag for flag, in single]  # doctest: +NORMALIZE_WHITESPACE
    ['--loss-memory fused', '--sharding hybrid', '--sharding full', '--micro-batch-size 1',
     '--activation-checkpointing selective', '--activation-checkpointing full']
    """
    losses = dict.fromkeys((choice.loss_memory, "fused"))
    shardings = [choice.sharding]
    if choice.shards > 1 and choice.sharding in _HYBRID_SAVINGS:
        shardings += _HYBRID_SAVINGS[choice.sharding]
    if choice.sharding != "full" and choice.devices > choice.shards:
        shardings.append("full")
    sizes = [choice.micro_batch_size]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2 if sizes[-1] % 2 == 0 else 1)
    stronger = modes[modes.index(choice.activation_checkpointing) :]
    for mode, size, sharding, loss in product(stronger, sizes, shardings, losses):
        yield replace(
            choice,
            sharding=sharding,
            activation_checkpointing=mode,
            micro_batch_size=size,
            loss_memory=loss,
        )


def name_changes(before: MemoryChoice, after: MemoryChoice) -> tuple[str, ...]:
    """Return what differs between two choices, as it is typed; devices are no option, and come last."""
    flags = [
        f"--{field.replace('_', '-')} {getattr(after, field)}"
        for field in ("loss_memory", "micro_batch_size", "activation_checkpointing", "sharding")
        if getattr(after, field) != getattr(before, field)
    ]
    return (*flags, f"{after.devices} devices") if after.devices != before.devices else tuple(flags)


def find_change(
    choice: MemoryChoice,
    needed_bytes: Callable[[MemoryChoice], int],
    memory_bytes: float,
    *,
    cost: Callable[[MemoryChoice], tuple[float, ...]],
    modes: Sequence[str] = CHECKPOINTING,
    most_devices: int = 4096,
) -> tuple[str, ...] | None:
    """Return the cheapest change that makes a choice fit; of equally cheap ones the one with the fewest options.

    Args:
        choice: one that does not fit.
        needed_bytes: of a choice.
        memory_bytes: that a plan may fill.
        cost: of a choice; what compares as less is better.
        modes: of activation checkpointing, weakest first.
        most_devices: that may be named where no option is enough.

    Returns:
        See `name_changes`; more devices, fully sharded, only where no option is enough. None where nothing helps.

    >>> start = MemoryChoice("hybrid", "none", 4, "chunks", 1, 1)
    >>> find_change(start, lambda one: 10 * one.micro_batch_size, 20, cost=lambda one: ())
    ('--micro-batch-size 2',)
    >>> find_change(start, lambda one: 80 // one.ranks, 20, cost=lambda one: ())
    ('--sharding full', '4 devices')
    """
    start = choice
    while start.devices <= max(most_devices, choice.devices):
        ranked = sorted(
            list_choices(start, modes), key=lambda one: (*cost(one), len(name_changes(choice, one)))
        )
        for one in ranked:
            if needed_bytes(one) <= memory_bytes:
                return name_changes(choice, one)
        start = replace(start, sharding="full", devices=2 * start.devices)
    return None
