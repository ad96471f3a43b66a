"""What ranks send each other in a step, in bytes: pure arithmetic, of a mesh and of the shapes of the parameters.

FSDP2 gathers a group of parameters before its forward pass and, unless it is kept, again before its backward pass;
reduces and scatters its gradients in every micro-batch; and with copies sums the scattered gradients over them, once a
step. Every parameter is cut along its first axis and padded to equal shards. DDP sums whole gradients once a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from biomedllama_cli.engine.sharding import MeshShape
from biomedllama_cli.settings.pretrain import Strategy

Kind = Literal["all_gather", "reduce_scatter", "all_reduce"]
Axis = Literal["shard", "replicate", "context"]

GRADIENT_BYTES = 4
"""Of one number of a gradient on its way between ranks: fp32 in every precision."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are gathered and reduced together: a decoder layer, or the tables with the last norm.

    Attributes:
        shapes: of the parameters, all of them trained; one that is used twice (tied) is there once.
        is_kept: stays gathered between forward and backward pass whatever the strategy, as the last group does.
    """

    shapes: tuple[tuple[int, ...], ...]
    is_kept: bool = False

    @property
    def numbers(self) -> int:
        """Return the parameters of the group."""
        return sum(map(math.prod, self.shapes))


@dataclass(frozen=True)
class Collective:
    """Calls of one operation among the ranks of an axis.

    Attributes:
        kind: of the operation.
        axis: `shard` (the ranks one copy is split over), `replicate` (those with the same shard), or `context` (those
            that share a sequence).
        ranks: that take part in one call.
        tensor_bytes: of the whole tensor that a call gathers, scatters or sums.
        calls: how many.
    """

    kind: Kind
    axis: Axis
    ranks: int
    tensor_bytes: int
    calls: int = 1

    @property
    def sent_bytes(self) -> int:
        """Return what each rank sends in all calls, around a ring.

        >>> Collective("all_gather", "shard", ranks=4, tensor_bytes=400).sent_bytes
        300
        >>> Collective("all_reduce", "replicate", ranks=4, tensor_bytes=400, calls=2).sent_bytes
        1200
        """
        rounds = 2 if self.kind == "all_reduce" else 1  # a sum is scattered, then gathered
        return self.calls * rounds * self.tensor_bytes * (self.ranks - 1) // self.ranks


@dataclass(frozen=True)
class StepTraffic:
    """The collectives of a step.

    Attributes:
        each_micro_batch: in every one.
        last_micro_batch: in the last one, besides.
    """

    each_micro_batch: tuple[Collective, ...] = ()
    last_micro_batch: tuple[Collective, ...] = ()

    def list_all(self, grad_accum_steps: int) -> list[tuple[Collective, int]]:
        """Return every collective of a step of so many micro-batches, with how often it comes."""
        every = [(each, grad_accum_steps) for each in self.each_micro_batch]
        return every + [(each, 1) for each in self.last_micro_batch]


@dataclass(frozen=True)
class LinkBytes:
    """What one step sends over the links of one node, one way.

    Attributes:
        inside: by each rank to another rank of its node.
        across: by all ranks of a node together to other nodes.
    """

    inside: int
    across: int


def pad_shard(shape: Sequence[int], ranks: int) -> int:
    """Return the numbers of one rank's shard of a parameter, padding included.

    >>> pad_shard((5, 3), 4), pad_shard((8,), 4)
    (6, 2)
    """
    return math.ceil(shape[0] / ranks) * math.prod(shape[1:])


def plan_traffic(
    groups: Iterable[ParameterGroup], mesh: MeshShape, strategy: Strategy, *, compute_bytes: int
) -> StepTraffic:
    """Return the collectives that spread the training of a whole model over a mesh.

    Those of a few numbers (target tokens, gradient norm, losses) are left out, and so is validation.

    >>> layer = ParameterGroup(((4, 10),))
    >>> traffic = plan_traffic([layer], MeshShape(2, 4), "hybrid", compute_bytes=2)
    >>> [(one.kind, one.calls, one.tensor_bytes) for one in traffic.each_micro_batch]
    [('all_gather', 2, 80), ('reduce_scatter', 1, 160)]
    >>> [(one.kind, one.ranks, one.tensor_bytes) for one in traffic.last_micro_batch]
    [('all_reduce', 2, 40)]

    Args:
        groups: of the model, see `fsdp_groups.group_parameters`.
        mesh: sizes of the axes.
        strategy: of the settings.
        compute_bytes: of one parameter as it is gathered: 2 in bf16 and fp16, 4 in fp32.
    """
    if strategy == "replicate":
        return _plan_copies(groups, mesh)
    ranks = mesh.fsdp_size
    each: list[Collective] = []
    last: list[Collective] = []
    for group in groups:
        shard = sum(pad_shard(shape, ranks) for shape in group.shapes)
        if ranks > 1:
            gathers = 1 if group.is_kept or strategy == "hybrid-zero2" else 2
            each.append(Collective("all_gather", "shard", ranks, shard * ranks * compute_bytes, gathers))
            each.append(Collective("reduce_scatter", "shard", ranks, shard * ranks * GRADIENT_BYTES))
        if mesh.dp_replicate_size > 1:
            last.append(Collective("all_reduce", "replicate", mesh.dp_replicate_size, shard * GRADIENT_BYTES))
    return StepTraffic(tuple(each), tuple(last))


def _plan_copies(groups: Iterable[ParameterGroup], mesh: MeshShape) -> StepTraffic:
    """Return the collectives of DDP; its buckets are counted as one tensor."""
    if mesh.world_size == 1:
        return StepTraffic()
    size = sum(group.numbers for group in groups) * GRADIENT_BYTES
    return StepTraffic(last_micro_batch=(Collective("all_reduce", "replicate", mesh.world_size, size),))


def plan_context_traffic(
    mesh: MeshShape, *, layers: int, key_value_numbers: int, compute_bytes: int, recomputes: bool = False
) -> tuple[Collective, ...]:
    """Return the collectives of one micro-batch whose sequences are shared by the ranks of the `context` axis.

    Keys and values are gathered in every layer, and their gradients summed back in fp32.

    Args:
        mesh: sizes of the axes.
        layers: with attention.
        key_value_numbers: of the keys of one layer for the whole micro-batch (rows x tokens x key heads x head size);
            the values have as many.
        compute_bytes: of one of them.
        recomputes: whether the backward pass computes the layers again.
    """
    if mesh.cp_size == 1:
        return ()
    gathers = 2 * layers * (2 if recomputes else 1)
    return (
        Collective("all_gather", "context", mesh.cp_size, key_value_numbers * compute_bytes, gathers),
        Collective("reduce_scatter", "context", mesh.cp_size, key_value_numbers * GRADIENT_BYTES, 2 * layers),
    )


def count_link_bytes(
    traffic: Iterable[tuple[Collective, int]], mesh: MeshShape, *, ranks_per_node: int
) -> LinkBytes:
    """Return what a step sends inside and across nodes, one way, with rings that leave a node once.

    A ring of ranks on several nodes passes all its bytes over the link between each two nodes; ranks of a node whose
    rings are different ones share the node's link.

    >>> mesh, sums = MeshShape(8, 4), Collective("all_reduce", "replicate", ranks=8, tensor_bytes=100)
    >>> count_link_bytes([(sums, 1)], mesh, ranks_per_node=4)  # 4 rings, each 2 x 7/8 of 100 bytes
    LinkBytes(inside=0, across=700)
    >>> gathers = Collective("all_gather", "shard", ranks=32, tensor_bytes=3200)
    >>> count_link_bytes([(gathers, 1)], MeshShape(1, 32), ranks_per_node=4)  # one ring through all nodes
    LinkBytes(inside=3100, across=3100)

    Args:
        traffic: collectives, and how often each comes.
        mesh: sizes of the axes; neighbouring ranks are on the same node.
        ranks_per_node: processes of one node.
    """
    inside = across = 0
    for one, times in traffic:
        on_node = _count_on_node(one, mesh, ranks_per_node)
        sent = one.sent_bytes * times
        if on_node > 1:
            inside += sent
        if on_node < one.ranks:
            across += sent * (ranks_per_node // on_node)
    return LinkBytes(inside, across)


def _count_on_node(collective: Collective, mesh: MeshShape, ranks_per_node: int) -> int:
    """Return how many of the ranks of one call are on the same node."""
    stride = 1
    if collective.axis == "replicate" and collective.ranks < mesh.world_size:
        stride = mesh.fsdp_size
    return min(collective.ranks, max(1, ranks_per_node // stride))
