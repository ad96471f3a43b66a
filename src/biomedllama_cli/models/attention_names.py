"""The attention implementations of ours, by what users call them, and their names in transformers."""

from __future__ import annotations

import torch

from biomedllama_cli.errors import UnavailableError
from biomedllama_cli.models.attention import register_xformers
from biomedllama_cli.models.document_attention import DOCUMENT_ATTENTION, register_document_attention
from biomedllama_cli.models.flash_attention import (
    FLASH_ATTENTION,
    VARLEN_ATTENTION,
    find_flash_obstacle,
    register_flash_attention,
)
from biomedllama_cli.models.flex_attention import (
    FLEX_ATTENTION,
    find_flex_obstacle,
    register_flex_attention,
)
from biomedllama_cli.models.split_attention import SPLIT_ATTENTION, register_split_attention

_REGISTER = {
    "xformers": register_xformers,
    DOCUMENT_ATTENTION: register_document_attention,
    SPLIT_ATTENTION: register_split_attention,
    FLEX_ATTENTION: register_flex_attention,
    FLASH_ATTENTION: register_flash_attention,
}


def register_attention(attention: str) -> str:
    """Make an attention known to transformers where it is one of ours, and return its name there.

    >>> register_attention("sdpa"), register_attention("flash_attention_2")
    ('sdpa', 'varlen')
    """
    if attention in _REGISTER:
        _REGISTER[attention]()
    return VARLEN_ATTENTION if attention == FLASH_ATTENTION else attention


def name_attention(implementation: str) -> str:
    """Return what users call an attention implementation of transformers.

    >>> name_attention("varlen"), name_attention("eager")
    ('flash_attention_2', 'eager')
    """
    return FLASH_ATTENTION if implementation == VARLEN_ATTENTION else implementation


def check_attention(attention: str, device: torch.device, dtype: torch.dtype) -> None:
    """Check that a model can be trained with flex or FlashAttention where that is asked for; each is tried once.

    Args:
        attention: any name.
        device: the model computes on.
        dtype: attention computes in.

    Raises:
        UnavailableError: it cannot.
    """
    obstacle = None
    if attention == FLEX_ATTENTION:
        obstacle = find_flex_obstacle(device.type, dtype)
    elif attention == FLASH_ATTENTION:
        obstacle = find_flash_obstacle(device.type, dtype)
    if obstacle is not None:
        raise UnavailableError(
            f"attention: {attention} cannot be used for training: {obstacle}.",
            hint="Use --attention auto, which takes the fastest that runs here.",
        )
