"""What a model has read: token ids with their keys and values, kept from one prompt to the next.

transformers' own layers copy all keys and values at every new token, and those with a sliding window forget what a
shorter prompt would need again. The layers here write into room that is there already, and are cut back in no time.

Letters: V ids the model may write, H heads, T tokens, K head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from biomedllama_cli.evaluation.changing_positions import (
    change_with_length,
    crosses_boundary,
    forget_lengths,
)

CHUNK_TOKENS = 512
"""A long prompt is read in parts of this length, which bounds the memory of one pass."""
_FIRST_ROOM = 256


class GrowingLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values (1, H, T, K), with room for more behind them.

    Which keys a token sees is the mask's business, so one kind of layer serves full attention and sliding windows.

    Args:
        longest: no room is made for more tokens than these before they come.
    """

    is_sliding = False
    is_croppable = True

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin with no tokens."""
        self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append, and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append(self.keys, key_states)
        self.values = self._append(self.values, value_states)
        self.length += key_states.shape[-2]
        return self.keys[..., : self.length, :], self.values[..., : self.length, :]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget as many of the last tokens; the number is negative, as in transformers."""
        self.length = max(0, self.length - abs(tokens_to_remove))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys `query_length` tokens see, and the place of the first."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return T."""
        return self.length

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1

    def _append(self, room: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Write states behind those held, in larger room where there is too little."""
        batch, heads, length, size = states.shape
        end = self.length + length
        if end > room.shape[-2]:
            larger = states.new_empty(
                batch, heads, max(end, min(max(_FIRST_ROOM, 2 * end), self.longest)), size
            )
            larger[..., : self.length, :] = room[..., : self.length, :]
            room = larger
        room[..., self.length : end, :] = states
        return room


class Memory:
    """Puts tokens through a model, each one once where the model allows that.

    Args:
        model: a causal language model in evaluation mode.
        longest: tokens that it is to hold at most.
    """

    def __init__(self, model: PreTrainedModel, longest: int) -> None:
        self.model = model
        self.longest = longest
        self.ids: list[int] = []
        """The tokens read so far, whose keys and values are kept."""
        self.tokens_computed = 0
        """Tokens ever put through the model."""
        own = model.get_base_model() if hasattr(model, "get_base_model") else model
        parameters = inspect.signature(own.forward).parameters
        names = [name for name in ("past_key_values", "cache_params") if name in parameters]
        self._cache_name = names[0] if names else None
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        plain = names[:1] == ["past_key_values"] and _count_plain_layers(model) > 0
        self.keeps = plain and not change_with_length(model)
        """Whether what was read can be kept from one prompt to the next: not so for recurrent states, nor where
        positions change with the length."""
        self._cache: Cache | None = None

    def begin(self, prompt_ids: Sequence[int]) -> int:
        """Forget all that a prompt does not begin with, and return how many of its tokens need not be read again.

        At least its last token is left to be read, since the model's scores for what follows come from there.
        """
        common = min(count_common(self.ids, prompt_ids), len(prompt_ids) - 1)
        if not self.keeps:
            common = 0
            forget_lengths(self.model)
        self._cut(common)
        return common

    def split(self, token_ids: Sequence[int]) -> list[Sequence[int]]:
        """Return a prompt's tokens in the parts in which they are to be read."""
        size = CHUNK_TOKENS if self.keeps else len(token_ids)
        return [token_ids[start : start + size] for start in range(0, len(token_ids), size)]

    def read(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Put tokens behind those read so far, and return the scores of what may follow, float32 [1, V].

        After an exception, Ctrl-C among them, the next prompt has to `begin` first: that cuts every layer back to
        tokens which were read whole.
        """
        scores_1V = self._pass(list(token_ids))
        self.ids += token_ids
        return scores_1V

    def forget(self) -> None:
        """Drop everything that was read."""
        self.ids = []
        self._cache = None

    @torch.inference_mode()
    def _pass(self, part: list[int]) -> torch.Tensor:
        kept: dict[str, Any] = {"use_cache": False}
        if self._cache_name is None:
            part = [*self.ids, *part]
        else:
            if crosses_boundary(self.model, len(self.ids), len(self.ids) + len(part)):
                part, self._cache = [*self.ids, *part], None
            self._cache = self._cache or self._build_cache()
            kept = {"use_cache": True, self._cache_name: self._cache}
        input_ids_1T = torch.tensor([part], device=self.model.device)
        logits_1TV = self.model(input_ids=input_ids_1T, **kept, **self._last_only).logits
        self.tokens_computed += len(part)
        scores_1V: torch.Tensor = logits_1TV[:, -1].float()
        return scores_1V

    def _build_cache(self) -> Cache:
        if self.keeps:
            return Cache(layers=[GrowingLayer(self.longest) for _ in range(_count_plain_layers(self.model))])
        return DynamicCache(config=self.model.config)

    def _cut(self, length: int) -> None:
        if length == 0:
            self.forget()
            return
        self.ids = self.ids[:length]
        # A pass that was broken off may have reached some layers only, so each is cut to the length by itself.
        for layer in self._cache.layers if self._cache is not None else []:
            layer.crop(min(0, length - layer.get_seq_length()))


def count_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many ids two sequences begin with alike.

    >>> count_common([1, 2, 3, 4], [1, 2, 5])
    2
    """
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _count_plain_layers(model: PreTrainedModel) -> int:
    """Return how many layers of keys and values a model has, or 0 where it remembers in another way as well."""
    if getattr(model, "_is_stateful", False):
        return 0
    layers = DynamicCache(config=model.config).layers
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return len(layers) if plain else 0
