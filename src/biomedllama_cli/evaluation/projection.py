"""Log-likelihoods of chosen positions, without logits of any other.

Letters: B rows, T tokens, N chosen positions, S scored tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from biomedllama_cli.evaluation.token_trees import Ids

LOGITS_PER_CHUNK = 2**24
"""Logits that exist at once (in numbers; 64 MiB in fp32): 341 positions of a vocabulary of 49,152."""


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
    model: PreTrainedModel, inputs: dict[str, Any], scored: ScoredTokens, *, chunks: bool
) -> torch.Tensor:
    """Run a model and return log-likelihoods and whether each is the vocabulary's largest, as one (2, S) tensor.

    Args:
        model: a causal language model in evaluation mode.
        inputs: of its forward.
        scored: what is asked.
        chunks: whether the output table may be applied outside the forward (see `can_project_outside`).
    """
    places_S, target_ids_S = (
        torch.from_numpy(ids).to(model.device) for ids in (scored.places_S, scored.target_ids_S)
    )
    chunk = max(1, LOGITS_PER_CHUNK // _count_pieces(model)) if chunks else len(scored.rows_N)
    parts = []
    for start, logits_CV in _iter_logits(model, inputs, scored, chunk):
        inside = slice(*np.searchsorted(scored.places_S, (start, start + len(logits_CV))))
        parts.append(_score_chunk(logits_CV, places_S[inside] - start, target_ids_S[inside]))
    return torch.cat(parts, dim=1)


def _score_chunk(logits_CV: torch.Tensor, places_S: torch.Tensor, target_ids_S: torch.Tensor) -> torch.Tensor:
    logits_CV = logits_CV.float()
    largest_C, likeliest_C = logits_CV.max(dim=-1)
    picked_S = logits_CV[places_S, target_ids_S]
    # In place: these logits are nobody else's, and a copy is as large as they are.
    totals_C = logits_CV.sub_(largest_C[:, None]).exp_().sum(dim=-1).log_().add_(largest_C)
    greedy_S = likeliest_C[places_S] == target_ids_S
    return torch.stack((picked_S - totals_C[places_S], greedy_S.float()))


def _iter_logits(
    model: PreTrainedModel, inputs: dict[str, Any], scored: ScoredTokens, chunk: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield logits of the chosen positions, and the number of the first of each piece."""
    rows_N, columns_N = (torch.from_numpy(ids).to(model.device) for ids in (scored.rows_N, scored.columns_N))
    count = len(scored.rows_N)
    logits_NV, hidden_ND = forward_chosen(
        model, inputs, rows_N, columns_N, keep=chunk if chunk < count else None
    )
    if hidden_ND is None:
        yield 0, logits_NV
        return
    del logits_NV
    for start in range(0, count, chunk):
        yield start, project(model, hidden_ND[start : start + chunk])


def forward_chosen(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    rows_N: torch.Tensor,
    columns_N: torch.Tensor,
    *,
    keep: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run a model so that its output table sees the chosen positions only.

    They are picked before the table is applied, so whatever the model does to the logits afterwards still happens.

    Args:
        model: the model.
        inputs: of its forward; `input_ids` among them.
        rows_N: row of each chosen position.
        columns_N: its column.
        keep: None for logits of all chosen positions; a number for their hidden states, with logits of the first.

    Returns:
        The logits (N, V) or (1, V), and the hidden states (N, D) if `keep` was given and the table could be watched.
    """
    shape = inputs["input_ids"].shape
    caught: list[torch.Tensor] = []

    def pick(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not arguments or arguments[0].shape[:2] != shape:
            return None
        hidden_ND = arguments[0][rows_N, columns_N]
        caught.append(hidden_ND)
        return (hidden_ND[None] if keep is None else hidden_ND[None, :1], *arguments[1:])

    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        logits = model(**inputs).logits
    finally:
        if hook is not None:
            hook.remove()
    if not caught:
        return logits[rows_N, columns_N], None
    return logits[0], None if keep is None else caught[0]


def project(model: PreTrainedModel, hidden_ND: torch.Tensor) -> torch.Tensor:
    """Return the logits of hidden states as models without special scales compute them."""
    logits_NV: torch.Tensor = model.get_output_embeddings()(hidden_ND)
    cap = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    return torch.tanh(logits_NV / cap) * cap if cap else logits_NV


def can_project_outside(model: PreTrainedModel, input_ids_BT: torch.Tensor) -> bool:
    """Find out whether `project` gives what the model's own forward gives."""
    columns_N = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)
    rows_N = torch.zeros_like(columns_N)
    inputs = {"input_ids": input_ids_BT, "use_cache": False}
    logits_NV, _ = forward_chosen(model, inputs, rows_N, columns_N)
    _, hidden_ND = forward_chosen(model, inputs, rows_N, columns_N, keep=1)
    return hidden_ND is not None and torch.allclose(
        project(model, hidden_ND).float(), logits_NV.float(), atol=1e-5
    )


def _count_pieces(model: PreTrainedModel) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
