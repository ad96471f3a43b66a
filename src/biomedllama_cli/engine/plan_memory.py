"""Memory of one rank, part by part, for every way of sharding: pure functions of the shapes of a model's parameters.

FSDP keeps the fp32 weights, gradients and moments of a rank's shards, and gathers the weights of one group after the
other (a decoder layer, the embeddings, the output table) in the precision of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from biomedllama_cli.engine.plan_step import StepMemory
from biomedllama_cli.engine.traffic import ParameterGroup, pad_shard
from biomedllama_cli.settings.pretrain import NumericsSettings, Strategy

STRATEGIES: tuple[str, ...] = get_args(Strategy)
CHECKPOINTING: tuple[str, ...] = get_args(
    NumericsSettings.model_fields["activation_checkpointing"].annotation
)

USABLE_SHARE = 0.90
"""Share of a device's memory that a plan may fill: predictions were up to 6.2 % below what was measured, and the rest
goes to the CUDA context, to buffers of collectives and to gaps between tensors."""

GAP_SHARE = 0.75
"""Memory that glibc's heap loses to gaps, as a share of activations in small blocks: 0.69 to 0.83 in runs of 15 million
parameters (fp32 and bf16, vocabularies of 1,024 to 32,000; glibc 2.36). An aligned block does not fit the gap that an
equal one has left."""

_FP32_BYTES = 4
_MOST_DEVICES = 4096


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
        loss_memory: chunks, fused or plain.
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


def list_changes(
    choice: MemoryChoice, modes: Sequence[str] = CHECKPOINTING
) -> Iterator[tuple[str, MemoryChoice]]:
    """Yield single changes that save memory, the cheapest in time first, as flags.

    Args:
        choice: to be changed.
        modes: of activation checkpointing, weakest first.

    >>> [flag for flag, _ in list_changes(MemoryChoice("hybrid-zero2", "none", 2, "plain", 4, 32))]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['--loss-memory chunks', '--sharding hybrid', '--micro-batch-size 1', '--activation-checkpointing selective',
     '--activation-checkpointing full', '--sharding full']
    """
    if choice.loss_memory == "plain":
        yield "--loss-memory chunks", replace(choice, loss_memory="chunks")
    if choice.sharding in ("hybrid-zero2", "replicate") and choice.shards > 1:
        yield "--sharding hybrid", replace(choice, sharding="hybrid")
    size = choice.micro_batch_size
    while size > 1:
        size = size // 2 if size % 2 == 0 else 1
        yield f"--micro-batch-size {size}", replace(choice, micro_batch_size=size)
    for mode in modes[modes.index(choice.activation_checkpointing) + 1 :]:
        yield f"--activation-checkpointing {mode}", replace(choice, activation_checkpointing=mode)
    if choice.sharding != "full" and choice.devices > choice.ranks:
        yield "--sharding full", replace(choice, sharding="full")


def find_change(
    choice: MemoryChoice,
    needed_bytes: Callable[[MemoryChoice], int],
    memory_bytes: float,
    *,
    modes: Sequence[str] = CHECKPOINTING,
) -> tuple[str, ...] | None:
    """Return the first change that makes a choice fit, as flags; several together where none does it alone.

    Args:
        choice: one that does not fit.
        needed_bytes: of a choice.
        memory_bytes: that a plan may fill.
        modes: of activation checkpointing, weakest first.

    Returns:
        The flags; the last names a number of devices where no setting is enough. None where nothing helps.

    >>> start = MemoryChoice("hybrid", "none", 4, "chunks", 1, 1)
    >>> find_change(start, lambda choice: 10 * choice.micro_batch_size, 20)
    ('--micro-batch-size 2',)
    >>> find_change(start, lambda choice: 80 // choice.ranks, 20)
    ('--micro-batch-size 1', '--activation-checkpointing full', '--sharding full', '4 devices')
    """
    changes = list(list_changes(choice, modes))
    for flag, changed in changes:
        if needed_bytes(changed) <= memory_bytes:
            return (flag,)
    flags: dict[str, str] = {}
    while changes:
        flag, choice = _pick_strongest(changes)
        flags[flag.split()[0]] = flag
        if needed_bytes(choice) <= memory_bytes:
            return tuple(flags.values())
        changes = list(list_changes(choice, modes))
    choice = replace(choice, sharding="full")
    while choice.devices < _MOST_DEVICES:
        choice = replace(choice, devices=2 * choice.devices)
        if needed_bytes(choice) <= memory_bytes:
            flags["--sharding"] = "--sharding full"
            return (*flags.values(), f"{choice.devices} devices")
    return None


def _pick_strongest(changes: Sequence[tuple[str, MemoryChoice]]) -> tuple[str, MemoryChoice]:
    """Return the strongest change of the kind that comes first; full sharding, the dearest, stays for the end."""
    kind = changes[0][0].split()[0]
    if kind == "--sharding":
        return changes[0]
    return [change for change in changes if change[0].split()[0] == kind][-1]
