"""What a model may add to its attention by a keyword, and an operator of ours would leave out or take wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biomedllama_cli.errors import ModelError

_EXTRAS = {
    "s_aux": "attention sinks",
    "softcap": "a cap on attention scores",
    "position_bias": "a bias of positions",
}


def refuse_extras(keywords: Mapping[str, Any], what: str, hint: str) -> None:
    """Check that a model asks for nothing but plain attention.

    Args:
        keywords: that transformers hands to an attention function.
        what: the attention that is used, for the message.
        hint: what to do instead.

    Raises:
        ModelError: it asks for more.
    """
    for name, words in _EXTRAS.items():
        if keywords.get(name) is not None:
            raise ModelError(f"model: its attention has {words}, which {what} has not.", hint=hint)


def refuse_dropout(dropout: float, what: str, hint: str) -> None:
    """Check that no attention weights are dropped.

    Raises:
        ModelError: some are.
    """
    if dropout:
        raise ModelError(
            f"model: its attention_dropout is {dropout:g} in training, and {what} has no dropout.", hint=hint
        )
