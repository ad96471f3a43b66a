"""Sampling that depends on the item and the chain alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from biomedllama_cli.errors import ModelError


def chain_seed(seed: int, item_id: str, chain: int) -> int:
    """Return the seed of one chain of one item, a number of 63 bits.

    >>> chain_seed(42, "q1", 0) == chain_seed(42, "q1", 0), chain_seed(42, "q1", 0) == chain_seed(42, "q1", 1)
    (True, False)
    """
    digest = hashlib.sha256(json.dumps([seed, item_id, chain]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


_HEAD = 1024
"""Likeliest tokens that are looked at first: top_p hardly ever reaches further."""


class ChainSampler(LogitsProcessor):  # type: ignore[misc]
    """Adds to every row noise of its own that makes the largest score a sample of the softmax (Gumbel-max).

    A row's noise comes from a generator of its own, so neither the other rows of a batch nor their order matter.
    Processes with one kind of device draw the same noise; a CPU and a GPU draw different noise.

    Args:
        seeds: one per row.
        temperature: divides the scores before anything else.
        top_p: only the likeliest tokens that together reach this probability remain, as in transformers and vLLM.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self.seeds = tuple(seeds)
        self.temperature = temperature
        self.top_p = top_p
        self._generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return noisy log-probabilities, shape [B, V]; `input_ids` is not looked at."""
        for seed in self.seeds[len(self._generators) :]:
            self._generators.append(torch.Generator(scores.device).manual_seed(seed))
        log_probs_BV = torch.log_softmax(scores.float() / self.temperature, dim=-1)
        if self.top_p < 1.0:
            log_probs_BV = keep_likeliest(log_probs_BV, self.top_p)
        # -log of an exponential variate is a Gumbel variate; the clamp keeps a zero from becoming infinity.
        tiny = torch.finfo(torch.float32).tiny
        noise_BV = torch.empty_like(log_probs_BV)
        for row, generator in enumerate(self._generators):
            noise_BV[row].exponential_(generator=generator)
        return log_probs_BV - noise_BV.clamp_min(tiny).log()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in this order."""
        self.seeds = tuple(self.seeds[row] for row in rows)
        if self._generators:  # none has drawn yet otherwise
            self._generators = [self._generators[row] for row in rows]

    def join(self, other: ChainSampler) -> None:
        """Put the rows of another sampler behind these; both of them have drawn, or neither has."""
        self.seeds += other.seeds
        self._generators += other._generators


def keep_likeliest(log_probs_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return log-probabilities with minus infinity outside the smallest set of tokens that reaches `top_p`.

    >>> keep_likeliest(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.6).exp()
    tensor([[0.5000, 0.3000, 0.0000]])
    """
    head_BK = log_probs_BV.topk(min(_HEAD, log_probs_BV.shape[-1]), dim=-1).values
    probs_BK = head_BK.exp()
    kept_BK = probs_BK.cumsum(dim=-1) - probs_BK < top_p
    count_B1 = kept_BK.sum(dim=-1, keepdim=True)
    least_B1 = head_BK.gather(-1, (count_B1 - 1).clamp_min(0))
    if bool(kept_BK[:, -1].any()):  # the set may end beyond the head
        return _keep_likeliest_of_all(log_probs_BV, top_p)
    # Of the equal tokens that the set ends with, the first ones are in it.
    equal_BV = log_probs_BV == least_B1
    room_B1 = count_B1 - (log_probs_BV > least_B1).sum(dim=-1, keepdim=True)
    dropped_BV = (log_probs_BV < least_B1) | (equal_BV & (equal_BV.cumsum(dim=-1) > room_B1))
    return log_probs_BV.masked_fill(dropped_BV, float("-inf"))


def _keep_likeliest_of_all(log_probs_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Do it by sorting, which takes ten times as long with a vocabulary of 50,000."""
    ordered_BV, order_BV = log_probs_BV.sort(dim=-1, descending=True, stable=True)
    probs_BV = ordered_BV.exp()
    dropped_BV = probs_BV.cumsum(dim=-1) - probs_BV >= top_p
    return log_probs_BV.masked_fill(dropped_BV.scatter(-1, order_BV, dropped_BV), float("-inf"))


def check_scores(scores_BV: torch.Tensor) -> None:
    """Check that a token can be chosen in each row; minus infinity rules a token out, but not all of them.

    Raises:
        ModelError: a row has scores that are no numbers, or no finite one.
    """
    if not bool(scores_BV.amax(dim=-1).isfinite().all()):
        raise ModelError(
            "model: its scores of the next token are no numbers.",
            "The precision may be too narrow for it: take --dtype fp32, or bf16 on CUDA.",
        )
