"""Rows that are continued in a batch that stays full: one that ends leaves, and the next one takes its place.

Answers differ in length, and a batch that waits for its longest one computes mostly padding. Here a finished row is
dropped from the keys and values that the model remembers, and waiting prompts are read and put beside the others.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel, RepetitionPenaltyLogitsProcessor
from transformers.cache_utils import DynamicLayer

from biomedllama_cli.evaluation.changing_positions import change_with_length
from biomedllama_cli.evaluation.continuation import (
    ContinuationRule,
    Continued,
    RowEnd,
    RowRequest,
    pad_left,
)
from biomedllama_cli.evaluation.model_support import find_static_reason
from biomedllama_cli.evaluation.sampling import ChainSampler, check_scores
from biomedllama_cli.models.tokenizer import Tokenizer

FREE_SHARE = 4
"""New prompts are read together, once a quarter of the rows is free: reading one alone keeps all the others waiting."""


def can_refill(model: PreTrainedModel) -> bool:
    """Tell whether rows may leave and enter: the model remembers keys and values of all tokens, and takes positions.

    These must not change with the length of the longest row.
    """
    if find_static_reason(model) is not None or change_with_length(model):
        return False
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False  # it reads every text anew (GPT-1, XLM), and would swallow what it should remember
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


class RefilledBatch:
    """Continues rows of a model that `can_refill`.

    Padding and the other rows change logits by rounding: in float32 about 1e-6, in bfloat16 about 1e-2, where two
    tokens that close may change places. The noise of a sampled row never depends on them.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer.
        rule: how rows are continued.
        batch_size: rows at once.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, rule: ContinuationRule, *, batch_size: int
    ) -> None:
        self._model, self._rule = model, rule
        self._pad_id = tokenizer.eos_id
        self._end = RowEnd(tokenizer, rule)
        self._penalty = RepetitionPenaltyLogitsProcessor(rule.repetition_penalty)
        self._batch_size = batch_size
        self._rows: list[tuple[int, RowRequest]] = []
        self._new_ids: list[list[int]] = []
        self._cache: DynamicCache
        self._sampler: ChainSampler
        self._mask_BS: torch.Tensor

    def run(
        self, requests: Sequence[RowRequest], tick: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, Continued]]:
        """Yield the number of a request and what it was continued with, as rows end; the first ones enter first.

        Args:
            requests: the rows.
            tick: called before every pass; what it raises ends the work.

        Raises:
            ModelError: the model's scores are no numbers.
        """
        waiting = deque(enumerate(requests))
        least = max(1, self._batch_size // FREE_SHARE)
        while waiting or self._rows:
            tick()
            free = self._batch_size - len(self._rows)
            with torch.inference_mode():
                if waiting and (free >= least or not self._rows):
                    self._take_in([waiting.popleft() for _ in range(min(free, len(waiting)))])
                else:
                    self._step()
            yield from self._let_go()

    def _take_in(self, rows: Sequence[tuple[int, RowRequest]]) -> None:
        """Read prompts, write the first token of each, and put them beside the rows under way."""
        input_ids_BS, mask_BS = pad_left([row.token_ids for _, row in rows], self._pad_id, self._model.device)
        cache = DynamicCache(config=self._model.config)
        sampler = ChainSampler([row.noise_seed for _, row in rows], self._rule.temperature, self._rule.top_p)
        positions_BS = (mask_BS.cumsum(dim=1) - 1).clamp_min(0)
        scores_BV = self._forward(input_ids_BS, mask_BS, positions_BS, cache)
        new_ids = [[token_id] for token_id in self._choose(scores_BV, [[]] * len(rows), sampler)]
        if self._rows:
            _join(self._cache, cache)
            self._sampler.join(sampler)
            mask_BS = _join_masks(self._mask_BS, mask_BS)
            self._mask_BS = mask_BS
        else:
            self._cache, self._sampler, self._mask_BS = cache, sampler, mask_BS
        self._rows += rows
        self._new_ids += new_ids

    def _step(self) -> None:
        """Write one token of every row."""
        last_ids_B1 = torch.tensor([ids[-1:] for ids in self._new_ids], device=self._mask_BS.device)
        positions_B1 = self._mask_BS.sum(dim=1, keepdim=True)
        self._mask_BS = pad(self._mask_BS, (0, 1), value=1)
        scores_BV = self._forward(last_ids_B1, self._mask_BS, positions_B1, self._cache)
        chosen = self._choose(scores_BV, self._new_ids, self._sampler)
        for new_ids, token_id in zip(self._new_ids, chosen, strict=True):
            new_ids.append(token_id)

    def _let_go(self) -> Iterator[tuple[int, Continued]]:
        """Yield the rows that are at their end, and forget them."""
        found = [
            self._end.find(row, new_ids) for new_ids, (_, row) in zip(self._new_ids, self._rows, strict=True)
        ]
        if not any(found):
            return
        ended = [(number, one) for (number, _), one in zip(self._rows, found, strict=True) if one is not None]
        left = [place for place, one in enumerate(found) if one is None]
        self._rows = [self._rows[place] for place in left]
        self._new_ids = [self._new_ids[place] for place in left]
        if left:
            self._keep(left)
        yield from ended

    def _keep(self, rows: Sequence[int]) -> None:
        self._sampler.keep(rows)
        rows_B = torch.tensor(rows, device=self._mask_BS.device)
        self._cache.batch_select_indices(rows_B)
        self._mask_BS = self._mask_BS[rows_B]
        padding = int(
            self._mask_BS.any(dim=0).int().argmax()
        )  # columns of the longest rows, if these have left
        if padding:
            self._mask_BS = self._mask_BS[:, padding:]
            for layer in self._cache.layers:
                layer.keys = layer.keys[..., padding:, :]
                layer.values = layer.values[..., padding:, :]

    def _forward(
        self,
        input_ids_BS: torch.Tensor,
        mask_BS: torch.Tensor,
        positions_BS: torch.Tensor,
        cache: DynamicCache,
    ) -> torch.Tensor:
        """Return the scores of each row's next token, shape [B, V]."""
        output: Any = self._model(
            input_ids=input_ids_BS,
            attention_mask=mask_BS,
            position_ids=positions_BS,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: torch.Tensor = output.logits[:, -1]
        return logits_BV.float()

    def _choose(
        self, scores_BV: torch.Tensor, new_ids: Sequence[Sequence[int]], sampler: ChainSampler
    ) -> list[int]:
        if self._rule.repetition_penalty != 1.0:
            said = [torch.tensor([ids], dtype=torch.long, device=scores_BV.device) for ids in new_ids]
            pairs = zip(said, scores_BV[:, None], strict=True)
            scores_BV = torch.cat([self._penalty(ids_1N, scores_1V) for ids_1N, scores_1V in pairs])
        if self._rule.temperature > 0:
            # The sampler's noise makes the largest score a sample, so nothing else is drawn.
            scores_BV = sampler(torch.empty(0), scores_BV)
        check_scores(scores_BV)
        chosen: list[int] = scores_BV.argmax(dim=-1).tolist()
        return chosen


def _join(cache: DynamicCache, other: DynamicCache) -> None:
    """Put the rows of another cache behind those of `cache`, both padded on the left to the longer one."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.keys = _stack(layer.keys, more.keys)
        layer.values = _stack(layer.values, more.values)


def _stack(one_BHSD: torch.Tensor, other_BHSD: torch.Tensor) -> torch.Tensor:
    longest = max(one_BHSD.shape[2], other_BHSD.shape[2])
    padded = [pad(each, (0, 0, longest - each.shape[2], 0)) for each in (one_BHSD, other_BHSD)]
    return torch.cat(padded)


def _join_masks(one_BS: torch.Tensor, other_BS: torch.Tensor) -> torch.Tensor:
    longest = max(one_BS.shape[1], other_BS.shape[1])
    return torch.cat([pad(each, (longest - each.shape[1], 0)) for each in (one_BS, other_BS)])
