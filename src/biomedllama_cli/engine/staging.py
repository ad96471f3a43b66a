"""Host memory that a state is copied to, so that it can be written while training goes on."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from accelerate import Accelerator
from torch import distributed

from biomedllama_cli.engine.checkpoint_draft import Piece

BLOCK_BYTES = 64 << 20
"""Taken at once (in bytes). CUDA's allocator rounds what it pins up to a power of two: of a tensor's own size nearly
half would be lost."""
USABLE_SHARE = 0.9
"""Of the host memory that is available; what is pinned stays pinned, and loaders and the disk's cache need some too."""


class Staging:
    """Host memory for the copy of one rank; kept from one save to the next."""

    def __init__(self) -> None:
        self._blocks: list[torch.Tensor] = []

    def count_missing(self, pieces: Sequence[Piece]) -> int:
        """Return the host memory that copying these takes beside what is there (in bytes)."""
        blocks = -(-sum(piece.rows.nbytes for piece in pieces) // BLOCK_BYTES)
        return max(0, blocks - len(self._blocks)) * BLOCK_BYTES

    def copy(self, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        """Return the bytes of the pieces in memory of their own; the device has made all copies when this returns."""
        on_device = any(piece.rows.is_cuda for piece in pieces)
        for _ in range(self.count_missing(pieces) // BLOCK_BYTES):
            self._blocks.append(torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=on_device))
        copies, used = [], 0
        for piece in pieces:
            content, done = piece.rows.contiguous().reshape(-1).view(torch.uint8), 0
            while done < len(content):
                block, start = divmod(used, BLOCK_BYTES)
                part = self._blocks[block][start : start + len(content) - done]
                part.copy_(content[done : done + len(part)], non_blocking=True)
                copies.append(Piece(piece.file, piece.place + done, part))
                done, used = done + len(part), used + len(part)
        if on_device:
            torch.cuda.current_stream().synchronize()
        return tuple(copies)


@dataclass(frozen=True)
class Claim:
    """Host memory that one rank asks for.

    Attributes:
        host: its node.
        needed: in bytes.
        available: on the whole node (in bytes).
    """

    host: str
    needed: int
    available: int


def find_shortage(claims: Sequence[Claim]) -> Claim | None:
    """Return what all ranks of a node ask for, of the first node that does not have it.

    >>> find_shortage([Claim("a", 60, 100), Claim("b", 60, 100), Claim("b", 40, 99)])
    Claim(host='b', needed=100, available=99)
    >>> find_shortage([Claim("a", 60, 100), Claim("b", 60, 100)])
    """
    nodes = defaultdict[str, list[Claim]](list)
    for claim in claims:
        nodes[claim.host].append(claim)
    for host, own in nodes.items():
        needed, available = sum(each.needed for each in own), min(each.available for each in own)
        if needed > USABLE_SHARE * available:
            return Claim(host, needed, available)
    return None


def claim_together(accelerator: Accelerator, needed: int) -> Claim | None:
    """Return the same shortage on every rank, or None; every rank must call it.

    Args:
        accelerator: of the job.
        needed: by this rank (in bytes).
    """
    claims = [Claim(socket.gethostname(), needed, psutil.virtual_memory().available)]
    if accelerator.num_processes > 1:
        everyone: list[list[Claim]] = [[]] * accelerator.num_processes
        distributed.all_gather_object(everyone, claims)
        claims = [claim for (claim,) in everyone]
    return find_shortage(claims)
