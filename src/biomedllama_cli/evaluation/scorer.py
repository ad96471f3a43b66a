"""Log-likelihoods of continuations, with everything that sequences share computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.token_trees import Group, TokenSequence

__all__ = ["Group", "SharedPrefixScorer", "Support", "TokenSequence"]


@dataclass(frozen=True, slots=True)
class Support:
    """What a model was found to allow.

    Attributes:
        shares: rows in which sequences share their prefixes.
        caches: preambles that are computed once and kept.
        reasons: why not, one sentence each.
    """

    shares: bool
    caches: bool
    reasons: tuple[str, ...] = ()


class SharedPrefixScorer:
    """Score groups of token sequences with a causal language model.

    Args:
        model: a transformers causal language model, on its device.
        context_length: longest input (in tokens); what is longer loses its left end.
        row_tokens: nodes per row; None chooses by device.
        batch_size: rows per forward.
        sharing: `off` scores every sequence in a plain row of its own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        context_length: int,
        row_tokens: int | None = None,
        batch_size: int = 1,
        sharing: Literal["auto", "off"] = "auto",
    ) -> None:
        self.support = Support(False, False)
        raise NotImplementedError

    def score(
        self, groups: Sequence[Group], *, finished: Set[int] = frozenset(), rank: int = 0, ranks: int = 1
    ) -> Iterator[tuple[int, tuple[Likelihood, ...]]]:
        """Yield each group's number and one likelihood per sequence, as they come."""
        raise NotImplementedError

    def check(self, groups: Sequence[Group], numbers: Sequence[int]) -> float:
        """Score some groups again one sequence at a time in plain rows; return the largest difference (nats)."""
        raise NotImplementedError
