"""Which rows of a sharded tensor this process holds, and whether it is the one that writes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import distributed
from torch.distributed.tensor import DTensor, Shard


@dataclass(frozen=True)
class OwnRows:
    """The part of a tensor that lies here.

    Attributes:
        start: its first row in the whole tensor.
        rows: the part itself; shares its memory.
        is_written_here: of all processes that hold the same part, this is the one that writes it.
    """

    start: int
    rows: torch.Tensor
    is_written_here: bool


def first_row(rows: int, shards: int, number: int) -> int:
    """Return the row a shard begins with: equal shards as long as there are rows, then a smaller one, then none.

    >>> [first_row(10, 4, number) for number in range(5)]
    [0, 3, 6, 9, 10]
    """
    return min(number * -(-rows // shards), rows)


def find_own_rows(tensor: torch.Tensor) -> OwnRows:
    """Return the rows of a tensor that this process holds; of a plain one all, which rank 0 writes."""
    if not isinstance(tensor, DTensor):
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        return OwnRows(0, tensor.detach(), rank == 0)
    mesh, place = tensor.device_mesh, tensor.device_mesh.get_coordinate()
    assert place is not None
    start, end, is_first = 0, tensor.shape[0], True
    for axis, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            is_first &= place[axis] == 0
            continue
        assert type(placement) is Shard, placement
        assert placement.dim == 0, placement
        assert (start, end) == (0, tensor.shape[0]), "more than one axis splits the rows"
        start, end = (first_row(end, mesh.size(axis), place[axis] + more) for more in (0, 1))
    rows = tensor.to_local().detach()
    assert len(rows) == end - start, (rows.shape, start, end)
    return OwnRows(start, rows, is_first)
