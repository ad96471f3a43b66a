"""Log-likelihoods of chosen positions, without logits of any other, and of those only a piece at a time.

Letters: B rows, T tokens, N chosen positions, S scored tokens, D hidden size, V vocabulary, C pieces of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from biomedllama_cli.evaluation.token_trees import Ids

BLOCK_PIECES = {"cpu": 2048, "cuda": 32768}
"""Pieces of the vocabulary per block of logits. On the CPU a block stays in the cache until it is summed up."""

BLOCK_POSITIONS = 1024
"""Positions per block of logits."""


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """Which tokens of a forward are scored.

    Attributes:
        rows_N: row of each chosen position.
        columns_N: its column.
        places_S: for each scored token, which chosen position predicts it; ascending.
        target_ids_S: the scored tokens.
    """

    rows_N: Ids
    columns_N: Ids
    places_S: Ids
    target_ids_S: Ids


def score_tokens(
    model: PreTrainedModel, inputs: dict[str, Any], scored: ScoredTokens, *, in_blocks: bool
) -> torch.Tensor:
    """Run a model and return log-likelihoods and whether each is the vocabulary's largest, as one (2, S) tensor.

    Args:
        model: a causal language model in evaluation mode.
        inputs: of its forward.
        scored: what is asked.
        in_blocks: whether the output table may be applied outside the forward (see `can_project_in_blocks`).
    """
    if not in_blocks:
        logits_NV = forward_chosen(model, inputs, scored)
        places_S, target_ids_S = _move(logits_NV.device, scored.places_S, scored.target_ids_S)
        return _score([(0, logits_NV)], len(logits_NV), places_S, target_ids_S)
    hidden_ND = _choose(model.base_model(**inputs).last_hidden_state, scored)
    places_S, target_ids_S = _move(hidden_ND.device, scored.places_S, scored.target_ids_S)
    parts = []
    for start in range(0, len(hidden_ND), BLOCK_POSITIONS):
        part_ND = hidden_ND[start : start + BLOCK_POSITIONS]
        inside = slice(*np.searchsorted(scored.places_S, (start, start + len(part_ND))))
        blocks = iter_blocks(model, part_ND)
        parts.append(_score(blocks, len(part_ND), places_S[inside] - start, target_ids_S[inside]))
    return torch.cat(parts, dim=1)


def _move(device: torch.device, *numbers: Ids) -> tuple[torch.Tensor, ...]:
    # The device of the last layer, where a model is spread over several.
    return tuple(torch.from_numpy(one).to(device) for one in numbers)


def _choose(states_BTD: torch.Tensor, scored: ScoredTokens) -> torch.Tensor:
    rows_N, columns_N = _move(states_BTD.device, scored.rows_N, scored.columns_N)
    return states_BTD[rows_N, columns_N]


def _score(
    blocks: Iterable[tuple[int, torch.Tensor]], count: int, places_S: torch.Tensor, target_ids_S: torch.Tensor
) -> torch.Tensor:
    """Sum up blocks of logits in fp32 as they come, rescaled whenever a larger logit is met."""
    device = places_S.device
    largest_N = torch.full((count,), -torch.inf, device=device)
    total_N = torch.zeros(count, device=device)
    likeliest_N = torch.zeros(count, dtype=torch.long, device=device)
    picked_S = torch.zeros(len(places_S), device=device)
    for start, logits_NC in blocks:
        logits_NC = logits_NC.float()
        offsets_S = target_ids_S - start
        inside_S = (offsets_S >= 0) & (offsets_S < logits_NC.shape[1])
        here_S = logits_NC[places_S, offsets_S.clamp(0, logits_NC.shape[1] - 1)]
        picked_S = torch.where(inside_S, here_S, picked_S)
        block_largest_N, block_likeliest_N = logits_NC.max(dim=-1)
        likeliest_N = torch.where(block_largest_N > largest_N, block_likeliest_N + start, likeliest_N)
        new_largest_N = torch.maximum(largest_N, block_largest_N)
        # In place: these logits are nobody else's, and a copy is as large as they are.
        block_total_N = logits_NC.sub_(new_largest_N[:, None]).exp_().sum(dim=-1)
        total_N = total_N * (largest_N - new_largest_N).exp() + block_total_N
        largest_N = new_largest_N
    greedy_S = likeliest_N[places_S] == target_ids_S
    return torch.stack((picked_S - (largest_N + total_N.log())[places_S], greedy_S.float()))


def forward_chosen(model: PreTrainedModel, inputs: dict[str, Any], scored: ScoredTokens) -> torch.Tensor:
    """Run a model so that its output table sees the chosen positions only; return their logits (N, V).

    They are picked before the table is applied, so whatever the model does to the logits afterwards still happens.
    """
    shape = inputs["input_ids"].shape
    caught: list[bool] = []

    def pick(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not arguments or arguments[0].shape[:2] != shape:
            return None
        caught.append(True)
        return _choose(arguments[0], scored)[None], *arguments[1:]

    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        logits = model(**inputs).logits
    finally:
        if hook is not None:
            hook.remove()
    chosen: torch.Tensor = logits[0] if caught else _choose(logits, scored)
    return chosen


def iter_blocks(model: PreTrainedModel, hidden_ND: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield logits of hidden states by blocks of pieces, each with the number of its first piece."""
    head: Any = model.get_output_embeddings()
    cap = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    pieces = BLOCK_PIECES.get(hidden_ND.device.type, BLOCK_PIECES["cuda"])
    for start in range(0, head.weight.shape[0], pieces):
        block = slice(start, start + pieces)
        logits_NC = functional.linear(
            hidden_ND, head.weight[block], None if head.bias is None else head.bias[block]
        )
        yield start, torch.tanh(logits_NC / cap) * cap if cap else logits_NC


def can_project_in_blocks(model: PreTrainedModel, input_ids_BT: torch.Tensor) -> bool:
    """Find out whether `iter_blocks` after the base model gives the logits of the model's own forward.

    It does not where the output table is no plain matrix, is wrapped by others, or logits are scaled afterwards.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or model.base_model is model:
        return False
    columns_N = np.arange(input_ids_BT.shape[1])
    every = ScoredTokens(np.zeros_like(columns_N), columns_N, columns_N, columns_N)
    inputs = {"input_ids": input_ids_BT, "use_cache": False}
    logits_NV = forward_chosen(model, inputs, every).float()
    hidden_ND = _choose(model.base_model(**inputs)[0], every)
    blocks_NV = torch.cat([logits_NC for _, logits_NC in iter_blocks(model, hidden_ND)], dim=-1).float()
    # Rounding may differ with the shape of a product, by no more than a few units in the last place.
    tolerance = 8 * torch.finfo(model.dtype).eps * float(logits_NV.abs().max())
    return logits_NV.shape == blocks_NV.shape and bool(((logits_NV - blocks_NV).abs() <= tolerance).all())
