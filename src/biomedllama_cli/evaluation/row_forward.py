"""One forward over rows of token trees, or over plain rows: tensors in, one likelihood per sequence out.

Letters: B rows, T tokens of a row, P tokens of preambles, N chosen positions, S scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.local_layers import positions_in_local_layers
from biomedllama_cli.evaluation.preambles import Preambles
from biomedllama_cli.evaluation.prefix_cache import PreambleStore
from biomedllama_cli.evaluation.projection import ScoredTokens, score_tokens
from biomedllama_cli.evaluation.row_plans import Batch, find_reading
from biomedllama_cli.evaluation.token_trees import (
    NO_PREAMBLE,
    Group,
    Ids,
    TokenTree,
    build_tree,
    cut_input,
    find_target_ids,
)

MaskKind = Literal["boolean", "additive"]

SequenceKey = tuple[int, int]
"""Number of a group, and of a sequence in it."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """How a model's forward is to be called.

    Attributes:
        mask: what its attention takes: booleans, or numbers to add.
        windows: for models that take one mask per kind of layer: what each kind sees.
        in_blocks: whether the output table may be applied outside the forward, block by block.
    """

    mask: MaskKind = "boolean"
    windows: tuple[tuple[str, Window], ...] = ()
    in_blocks: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """What a layer sees: the last `size` positions, or (`blocks`) those of the same block of `size`; None for all."""

    size: int | None = None
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """Where the scored tokens of one sequence are predicted."""

    key: SequenceKey
    row: int
    columns: Ids
    target_ids: Ids


class RowForward:
    """Compute batches of rows.

    Args:
        model: a causal language model in evaluation mode.
        abilities: how it is called.
        context_length: longest input (in tokens).
    """

    def __init__(self, model: PreTrainedModel, abilities: Abilities, context_length: int) -> None:
        self._model, self._abilities, self._context_length = model, abilities, context_length
        self._store = PreambleStore(model)

    def score_batch(
        self, groups: Sequence[Group], batch: Batch, preambles: Preambles
    ) -> dict[int, tuple[Likelihood, ...]]:
        """Return the likelihoods of all groups of a batch of trees, by group number."""
        trees, asked = [], []
        for place, row in enumerate(batch):
            keys = [(number, index) for number in row.groups for index in range(len(groups[number]))]
            inputs = []
            for number, index in keys:
                sequence = groups[number][index]
                inputs.append(preambles.attach(cut_input(sequence, self._context_length), sequence.scored))
            tree = build_tree(inputs)
            trees.append(tree)
            for key, path in zip(keys, tree.paths, strict=True):
                sequence = groups[key[0]][key[1]]
                asked.append(Asked(key, place, path[-sequence.scored :], find_target_ids(sequence)))
        numbers = batch[0].preambles
        kept = {number: preambles.token_ids[number] for number in numbers}
        return self._answer(groups, self._run_trees(trees, asked, batch, kept))

    def score_plain(
        self, groups: Sequence[Group], numbers: Sequence[int], batch_size: int
    ) -> dict[int, tuple[Likelihood, ...]]:
        """Return the likelihoods of some groups, read leaf by leaf under the model's own causal mask.

        Padding stands on the right, where a causal model's answers cannot see it.
        """
        rows: list[Ids] = []
        asked: list[Asked] = []
        for number in numbers:
            read, places = find_reading(groups[number], self._context_length)
            for index, sequence in enumerate(groups[number]):
                length = len(cut_input(sequence, self._context_length))
                columns = np.arange(length - sequence.scored, length)
                asked.append(
                    Asked((number, index), len(rows) + places[index], columns, find_target_ids(sequence))
                )
            rows += [cut_input(groups[number][index], self._context_length) for index in read]
        order = sorted(range(len(rows)), key=lambda row: (-len(rows[row]), row))
        found: dict[SequenceKey, tuple[float, bool]] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            here = [
                Asked(one.key, chosen.index(one.row), one.columns, one.target_ids)
                for one in asked
                if one.row in chosen
            ]
            input_ids_BT = torch.from_numpy(_pad([rows[row] for row in chosen], len(rows[chosen[0]])))
            inputs = {"input_ids": input_ids_BT.to(self._model.device), "use_cache": False}
            found.update(self._run(inputs, here))
        return self._answer(groups, found)

    def forget(self) -> None:
        """Drop the kept preambles."""
        self._store.clear()

    def _run(self, inputs: dict[str, Any], asked: Sequence[Asked]) -> dict[SequenceKey, tuple[float, bool]]:
        width = inputs["input_ids"].shape[1]
        flat = np.concatenate([one.row * width + one.columns for one in asked])
        targets = np.concatenate([one.target_ids for one in asked])
        chosen, places = np.unique(flat, return_inverse=True)
        order = np.argsort(places, kind="stable")
        scored = ScoredTokens(chosen // width, chosen % width, places[order], targets[order])
        values = score_tokens(self._model, inputs, scored, in_blocks=self._abilities.in_blocks).cpu().numpy()
        in_order = np.empty_like(values)
        in_order[:, order] = values
        found = {}
        start = 0
        for one in asked:
            here = in_order[:, start : start + len(one.columns)]
            found[one.key] = float(here[0].sum(dtype=np.float64)), bool(here[1].all())
            start += len(one.columns)
        return found

    def _answer(
        self, groups: Sequence[Group], found: dict[SequenceKey, tuple[float, bool]]
    ) -> dict[int, tuple[Likelihood, ...]]:
        answers: dict[int, tuple[Likelihood, ...]] = {}
        for number in sorted({number for number, _ in found}):
            answers[number] = tuple(
                Likelihood(
                    value=found[number, index][0],
                    tokens=sequence.scored,
                    greedy=found[number, index][1],
                    truncated=len(sequence.token_ids) > self._context_length + 1,
                )
                for index, sequence in enumerate(groups[number])
            )
        return answers

    def _run_trees(
        self, trees: Sequence[TokenTree], asked: Sequence[Asked], batch: Batch, preambles: dict[int, Ids]
    ) -> dict[SequenceKey, tuple[float, bool]]:
        device, width = self._model.device, batch[0].length
        inputs: dict[str, Any] = {
            "input_ids": torch.from_numpy(_pad([tree.token_ids for tree in trees], width)).to(device),
            "use_cache": bool(preambles),
        }
        if batch[0].chain:
            return self._run(inputs, asked)
        depths_BT = torch.from_numpy(_pad([tree.depths for tree in trees], width)).to(device)
        before_P = np.concatenate(
            [*map(np.arange, map(len, preambles.values())), np.zeros(0, dtype=np.int64)]
        )
        before_BP = torch.from_numpy(before_P).to(device).expand(len(trees), -1)
        keys_BS = torch.cat((before_BP, depths_BT), dim=-1)
        sees_BTS = _build_sight(trees, width, preambles, device)
        inputs["position_ids"] = depths_BT
        inputs["attention_mask"] = (
            self._finish_mask(sees_BTS)
            if not self._abilities.windows
            else {
                kind: self._finish_mask(_narrow(sees_BTS, depths_BT, keys_BS, window))
                for kind, window in self._abilities.windows
            }
        )
        if preambles:
            inputs["past_key_values"] = self._store.build_cache(preambles)
        with positions_in_local_layers(self._model, depths_BT, keys_BS):
            return self._run(inputs, asked)

    def _finish_mask(self, sees_BTS: torch.Tensor) -> torch.Tensor:
        if self._abilities.mask == "boolean":
            return sees_BTS[:, None]
        dtype = self._model.dtype
        zeros = torch.zeros(sees_BTS.shape, dtype=dtype, device=sees_BTS.device)
        return zeros.masked_fill_(~sees_BTS, torch.finfo(dtype).min)[:, None]


def _build_sight(
    trees: Sequence[TokenTree], width: int, preambles: dict[int, Ids], device: torch.device
) -> torch.Tensor:
    """Return which keys, those of the preambles first, each node of each row sees."""
    places_T = torch.arange(width, device=device)
    # A padding node ends at once: it sees itself, so that its softmax is over something.
    ends = [np.concatenate((tree.ends, np.arange(len(tree.ends), width) + 1)) for tree in trees]
    ends_BT = torch.from_numpy(np.stack(ends)).to(device)
    sees_BTS = (places_T[None, :] <= places_T[:, None])[None] & (
        places_T[None, :, None] < ends_BT[:, None, :]
    )
    if not preambles:
        return sees_BTS
    roots_BT = torch.from_numpy(_pad([tree.roots for tree in trees], width, NO_PREAMBLE)).to(device)
    owners = np.concatenate([np.full(len(ids), number) for number, ids in preambles.items()])
    sees_BTP = roots_BT[:, :, None] == torch.from_numpy(owners).to(device)[None, None, :]
    return torch.cat((sees_BTP, sees_BTS), dim=-1)


def _narrow(
    sees_BTS: torch.Tensor, queries_BT: torch.Tensor, keys_BS: torch.Tensor, window: Window
) -> torch.Tensor:
    if window.size is None:
        return sees_BTS
    if window.blocks:
        return sees_BTS & (queries_BT[:, :, None] // window.size == keys_BS[:, None, :] // window.size)
    return sees_BTS & (queries_BT[:, :, None] - keys_BS[:, None, :] < window.size)


def _pad(rows: Sequence[Ids], width: int, value: int = 0) -> Ids:
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded
