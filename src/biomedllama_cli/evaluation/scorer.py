"""Log-likelihoods of continuations, with everything that sequences share computed once.

Options of a question share its context, permutations its text, questions their few-shot examples. All sequences of
a row are laid out as a forest (`token_trees`), what many rows share is kept in a cache (`preambles`,
`prefix_cache`), and only positions that predict something reach the output table (`projection`). A model whose
attention does not allow that is found out at the start (`model_support`) and reads plain rows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence, Set
from typing import Literal

import torch
from transformers import PreTrainedModel

from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.model_support import Support, examine_model
from biomedllama_cli.evaluation.preambles import Preambles, choose_preambles
from biomedllama_cli.evaluation.row_forward import RowForward
from biomedllama_cli.evaluation.row_plans import (
    Batch,
    Limits,
    plan_batches,
    plan_plain_batches,
    plan_plain_row,
)
from biomedllama_cli.evaluation.token_trees import Group, TokenSequence

__all__ = ["Group", "SharedPrefixScorer", "Support", "TokenSequence"]

logger = logging.getLogger(__name__)

ROW_TOKENS = {"cpu": 512, "cuda": 2048}
"""Nodes of a row: enough for full matrix products; more costs attention among groups that see nothing of each other."""

_MULTIPLES = {"cpu": 16, "cuda": 64}


class SharedPrefixScorer:
    """Score groups of token sequences with a causal language model.

    The model is left as it was found: its mode and its parameters do not change.

    Args:
        model: a transformers causal language model, on its device.
        context_length: longest input (in tokens); what is longer loses its left end.
        row_tokens: nodes per row; None chooses by device. A larger group has a row of its own.
        batch_size: rows per forward.
        sharing: `off` reads every sequence in a plain row.
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
        self._model = model
        self._batch_size = batch_size
        device = model.device.type
        with _Quiet(model):
            self._findings = examine_model(model, sharing=sharing == "auto")
        self._limits = Limits(
            context_length,
            row_tokens or ROW_TOKENS.get(device, ROW_TOKENS["cuda"]),
            _MULTIPLES.get(device, _MULTIPLES["cuda"]),
            self._findings.longest_input,
        )
        self._forward = RowForward(model, self._findings.abilities, context_length)
        self.support = self._findings.support
        if sharing == "auto":
            for reason in self.support.reasons:
                logger.warning("scoring: %s", reason)

    def score(
        self, groups: Sequence[Group], *, finished: Set[int] = frozenset(), rank: int = 0, ranks: int = 1
    ) -> Iterator[tuple[int, tuple[Likelihood, ...]]]:
        """Yield each group's number and one likelihood per sequence, as they come.

        Args:
            groups: what is scored; the layout of rows depends on all of them.
            finished: numbers of groups that are known; a batch is skipped when all of its groups are, else it is
                computed whole, so that no number depends on an interruption.
            rank: of this process; batches are dealt in turn.
            ranks: how many processes there are.

        Raises:
            DataError: more tokens are scored than the context holds.
            ModelError: the model's answers are not finite.
        """
        self._check_lengths(groups)
        batches, preambles = self._plan(groups)
        try:
            for batch in batches[rank::ranks]:
                if all(number in finished for row in batch for number in row.groups):
                    continue
                with _Quiet(self._model):
                    answers = self._score_batch(groups, batch, preambles)
                for number, likelihoods in answers.items():
                    _check_finite(number, likelihoods)
                    yield number, likelihoods
        finally:
            self._forward.forget()

    def check(self, groups: Sequence[Group], numbers: Sequence[int]) -> float:
        """Score some groups again one sequence at a time in plain rows; return the largest difference (nats).

        The other score is that of these groups among all others, as `score` gives it.
        """
        wanted = set(numbers)
        if not wanted:
            return 0.0
        largest = 0.0
        batches, preambles = self._plan(groups)
        for batch in batches:
            here = wanted.intersection(number for row in batch for number in row.groups)
            if not here:
                continue
            with _Quiet(self._model):
                answers = self._score_batch(groups, batch, preambles)
                for number in sorted(here):
                    for sequence, likelihood in zip(groups[number], answers[number], strict=True):
                        alone = self._forward.score_plain([(sequence,)], [0], 1)[0][0]
                        largest = max(largest, abs(alone.value - likelihood.value))
        self._forward.forget()
        return largest

    def _plan(self, groups: Sequence[Group]) -> tuple[list[Batch], Preambles]:
        length = self._limits.context_length
        if not self.support.shares:
            rows = [plan_plain_row(number, group, length) for number, group in enumerate(groups) if group]
            return plan_plain_batches(rows, self._batch_size), Preambles([])
        preambles = choose_preambles(groups, length) if self.support.caches else Preambles([])
        return plan_batches(groups, preambles, self._limits, self._batch_size), preambles

    def _score_batch(
        self, groups: Sequence[Group], batch: Batch, preambles: Preambles
    ) -> dict[int, tuple[Likelihood, ...]]:
        if batch[0].plain:
            numbers = [number for row in batch for number in row.groups]
            return self._forward.score_plain(groups, numbers, self._batch_size)
        return self._forward.score_batch(groups, batch, preambles)

    def _check_lengths(self, groups: Sequence[Group]) -> None:
        length = self._limits.context_length
        for number, group in enumerate(groups):
            for sequence in group:
                if sequence.scored > length:
                    raise DataError(
                        f"group {number} has a sequence of which {sequence.scored} tokens are to be scored; "
                        f"the context holds {length} (context_length)"
                    )


class _Quiet:
    """A model in evaluation mode without gradients, and as it was found afterwards."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._training = [module for module in model.modules() if module.training]
        self._model = model
        self._inference = torch.inference_mode()

    def __enter__(self) -> None:
        self._model.eval()
        self._inference.__enter__()

    def __exit__(self, *error: object) -> None:
        self._inference.__exit__(None, None, None)
        for module in self._training:
            module.training = True


def _check_finite(number: int, likelihoods: Sequence[Likelihood]) -> None:
    values = [one.value for one in likelihoods]
    if not all(map(math.isfinite, values)):
        raise ModelError(
            f"the model's log-likelihoods for group {number} are {values}; they must be finite",
            "fp16 overflows in models trained in bf16: try --dtype bf16 or --dtype fp32.",
        )
