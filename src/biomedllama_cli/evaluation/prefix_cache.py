"""Keys and values of preambles, computed once and read by many rows.

transformers' own cache layers append what they are given; after each row they would have to be cropped, and rows of
a batch would each need a copy. The layer here stores nothing: it returns the preambles' keys before the row's.

Letters: B rows, H heads, P tokens of preambles, T tokens of a row, K head size.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from biomedllama_cli.evaluation.token_trees import Ids

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]
"""One pair of tensors (1, H, P, K) per layer."""


class PrefixLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values of what stands before a row; reading them changes nothing.

    Args:
        keys_1HPK: keys.
        values_1HPK: values; their last size may differ from the keys'.
    """

    is_sliding = False

    def __init__(self, keys_1HPK: torch.Tensor, values_1HPK: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys_1HPK, values_1HPK
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the layer is made with its tensors."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values (B, H, P + T, K) of preambles and row."""
        return _put_before(self.keys, key_states), _put_before(self.values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys a row of `query_length` tokens sees, and the place of the first."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return P."""
        return int(self.keys.shape[-2])

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1


class PreambleStore:
    """Computes preambles as they are needed, and keeps those of the rows at hand.

    Args:
        model: a model in evaluation mode.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._kept: dict[int, KeysAndValues] = {}

    def build_cache(self, token_ids: dict[int, Ids]) -> Cache:
        """Return a cache of these preambles (by number) one after the other; all others are forgotten."""
        self._kept = {number: kept for number, kept in self._kept.items() if number in token_ids}
        for number, ids in token_ids.items():
            if number not in self._kept:
                self._kept[number] = self._compute(ids)
        return Cache(
            layers=[
                PrefixLayer(_join([keys for keys, _ in pairs]), _join([values for _, values in pairs]))
                for pairs in zip(*(self._kept[number] for number in token_ids), strict=True)
            ]
        )

    def clear(self) -> None:
        """Forget everything."""
        self._kept = {}

    def _compute(self, ids: Ids) -> KeysAndValues:
        # Plain growing layers, also for windows: which keys a row sees is the mask's business, not the cache's.
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        input_ids_1P = torch.from_numpy(ids)[None].to(self._model.device)
        self._model.base_model(input_ids=input_ids_1P, past_key_values=cache, use_cache=True)
        return [(layer.keys, layer.values) for layer in cache.layers]


def _put_before(prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return torch.cat((prefix.expand(states.shape[0], -1, -1, -1), states), dim=-2)


def _join(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=-2)
