"""Keep the memory of a process on the CPU near what its tensors need."""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

_M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE_BLOCK = 2**20
"""Size from which a block of memory is mapped by itself (in bytes)."""


def map_large_blocks_apart() -> bool:
    """Make glibc give every freed large block back to the system, and tell whether it does.

    Left alone, glibc keeps large blocks in its heap as soon as one was freed. Gradient checkpointing then frees a
    layer's temporary tensors around the one it keeps, the holes fit no later tensor, and a model of 30 layers ends
    with several times the memory its tensors need. Worth its price, mapping pages anew, where memory is short.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another system, or a C library without it
        return False
    done = bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK))
    logger.debug("large blocks are mapped apart: %s", done)
    return done
