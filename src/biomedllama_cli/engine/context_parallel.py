"""Rows shared by the ranks of a mesh's context-parallel axis: each computes a part of every row's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed

from biomedllama_cli.engine.device_mesh import find_context_group
from biomedllama_cli.engine.rows import Batch
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.models.loss import token_losses
from biomedllama_cli.models.split_attention import SplitRows, find_pieces, splitting


@dataclass(frozen=True)
class RowSplit:
    """How this rank shares rows with others.

    Attributes:
        group: of the ranks that share them.
        size: how many they are.
        part: number of this rank among them.
    """

    group: Any
    size: int
    part: int

    def find_losses(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the losses of this rank's part of the rows in their places (fp32 [rows, tokens]), 0 elsewhere.

        Every rank of the group must call it with the same rows; the sum over the group is the loss of every token.
        """
        positions_BT = batch["position_ids"]
        length = positions_BT.shape[1]
        places_T = torch.arange(length, device=positions_BT.device)
        places_L = torch.cat([places_T[piece] for piece in find_pieces(length, self.size, self.part)])
        with splitting(SplitRows(self.group, places_T - positions_BT)):
            losses_BL = token_losses(
                model,
                *(batch[name].index_select(1, places_L) for name in ("input_ids", "labels", "position_ids")),
            )
        return losses_BL.new_zeros(positions_BT.shape).index_copy(1, places_L, losses_BL)


def build_row_split(accelerator: Accelerator) -> RowSplit | None:
    """Return how this rank shares rows with others, or None where each has rows of its own."""
    group = find_context_group(accelerator)
    if group is None:
        return None
    return RowSplit(group, distributed.get_world_size(group), distributed.get_rank(group))


def share_rows(model: torch.nn.Module, split: RowSplit) -> None:
    """Make every rank of a group compute its part of the rows that the model is given from now on."""
    model.row_split = split  # type: ignore[assignment]  # an attribute like any other: it is no module


def find_row_split(model: torch.nn.Module) -> RowSplit | None:
    """Return how this rank shares rows with others, or None where each has rows of its own."""
    split: RowSplit | None = getattr(model, "row_split", None)
    return split


def count_sharers(model: torch.nn.Module) -> int:
    """Return the ranks that share each row: a count of whole rows, summed over ranks, is that much too large."""
    split = find_row_split(model)
    return 1 if split is None else split.size


def check_split(sequence_length: int, cp_size: int) -> None:
    """Check that rows can be cut into two pieces for every rank that shares them.

    Raises:
        SettingsError: they cannot.
    """
    unit = 2 * cp_size
    if cp_size > 1 and sequence_length % unit:
        raise SettingsError(
            f"batch.sequence_length = {sequence_length} must be a multiple of 2 x parallel.cp_size = {unit}.",
            f"The nearest is --sequence-length {max(1, round(sequence_length / unit)) * unit}.",
        )
