"""Text that a model writes after a prompt, greedily or in seeded chains, by transformers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from biomedllama_cli.evaluation.answer_text import decode_answer
from biomedllama_cli.evaluation.changing_positions import change_with_length
from biomedllama_cli.evaluation.continuation import (
    ContinuationRule,
    RowRequest,
    build_config,
    continue_padded,
    find_end_ids,
    pad_left,
    without_own_settings,
)
from biomedllama_cli.evaluation.prompting import (
    EncodedPrompt,
    GenerationRule,
    Prompt,
    encode_prompts,
    find_truncated,
)
from biomedllama_cli.evaluation.sampling import chain_seed
from biomedllama_cli.models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class Generator(Protocol):
    """Anything that continues prompts."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        rule: GenerationRule,
        finished: Collection[int] = frozenset(),
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> Iterator[tuple[int, str]]:
        """Yield the number of a prompt and the text after it, as batches come.

        Args:
            prompts: finished prompts.
            rule: how text is generated.
            finished: numbers of prompts that are done already.
            rank: this process among those that share the prompts.
            ranks: how many they are; all must be given the same `finished`.

        Raises:
            SettingsError: the context has no room for a prompt.
            DataError: a prompt has no tokens at all.
            ModelError: the model's scores are no numbers.
        """
        ...


def plan_batches(
    encoded: Sequence[EncodedPrompt],
    finished: Collection[int],
    batch_size: int,
    *,
    rank: int = 0,
    ranks: int = 1,
) -> list[list[EncodedPrompt]]:
    """Return what is left for a rank in batches, longest prompts first; equal prompts stand side by side.

    The batches follow from all prompts, and one of which a part is finished stays whole: no text depends on an
    interruption, or on the number of ranks.
    """
    if cut := find_truncated(encoded):
        logger.warning("generation: %d of %d prompts lose their left end", len(cut), len(encoded))
    ordered = sorted(encoded, key=lambda prompt: (-len(prompt.token_ids), prompt.token_ids, prompt.number))
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [batch for batch in batches[rank::ranks] if any(one.number not in finished for one in batch)]


class HuggingFaceGenerator:
    """Continues prompts with a transformers model, in left-padded batches.

    Prompts that occur several times in a batch (the chains of one item) are read once, where the model's cache is
    one of keys and values; other models read every row. Padding and the size of a batch change logits by rounding:
    in float32 about 1e-6, in bfloat16 about 1e-2, where two tokens that close may change places. The noise of a
    sampled chain never depends on them.

    Args:
        model: a causal language model; its own generation settings are not used, but for the ids it ends with.
        tokenizer: its tokenizer.
        context_length: longest prompt and answer together (in tokens).
        batch_size: rows at once.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, *, context_length: int, batch_size: int
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.batch_size = batch_size
        self.end_ids = find_end_ids(model, tokenizer)

    def generate(
        self,
        prompts: Sequence[Prompt],
        rule: GenerationRule,
        finished: Collection[int] = frozenset(),
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> Iterator[tuple[int, str]]:
        """Yield the number of a prompt and the text after it, batch by batch: see `Generator`."""
        encoded = encode_prompts(self.tokenizer, prompts, rule, self.context_length)
        for batch in plan_batches(encoded, finished, self.batch_size, rank=rank, ranks=ranks):
            for prompt, new_ids in zip(batch, self._continue(batch, rule), strict=True):
                if prompt.number not in finished:
                    yield prompt.number, decode_answer(self.tokenizer, prompt.token_ids, new_ids, rule.stop)

    def _continue(self, batch: Sequence[EncodedPrompt], rule: GenerationRule) -> list[list[int]]:
        """Return the new ids of every row, up to the end of its answer."""
        rows = [
            RowRequest(prompt.token_ids, rule.max_new_tokens, chain_seed(rule.seed, prompt.id, prompt.chain))
            for prompt in batch
        ]
        continuation = ContinuationRule(
            temperature=rule.temperature,
            top_p=rule.top_p,
            stop=rule.stop,
            end_ids=tuple(sorted({*self.end_ids, *rule.end_ids})),
        )
        cache = self._read_once(batch)
        found = continue_padded(self.model, self.tokenizer, rows, continuation, cache=cache)
        return [list(one.new_ids) for one in found]

    def _read_once(self, batch: Sequence[EncodedPrompt]) -> DynamicCache | None:
        """Return the keys and values of all but each row's last token, each distinct prompt read once.

        None where all prompts differ, where the model remembers in another way, or where each row is read alone.
        """
        distinct = list(dict.fromkeys(prompt.token_ids for prompt in batch))
        longest = max(map(len, distinct))
        if len(distinct) == len(batch) or longest < 2 or change_with_length(self.model):
            return None
        input_ids_BS, mask_BS = pad_left(distinct, self.tokenizer.eos_id, self.model.device)
        if not bool(mask_BS[:, :-1].any(dim=1).all()):
            return None
        config = build_config(1, self.end_ids, self.tokenizer.eos_id)
        config.return_dict_in_generate = True
        with without_own_settings(self.model):
            output: Any = self.model.generate(
                input_ids_BS[:, :-1], attention_mask=mask_BS[:, :-1], generation_config=config
            )
        cache = output.past_key_values
        plain = type(cache) is DynamicCache and all(
            type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
        )
        if not plain or cache.get_seq_length() != longest - 1:
            return None
        rows = torch.tensor(
            [distinct.index(prompt.token_ids) for prompt in batch], device=input_ids_BS.device
        )
        cache.batch_select_indices(rows)
        return cache
