"""Text that a model writes after a prompt, greedily or in seeded chains, by transformers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.sampling import ChainSampler, TextStop, chain_seed
from biomedllama_cli.models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A finished prompt; `chain` numbers the samples drawn for one item."""

    id: str
    text: str
    chain: int = 0


@dataclass(frozen=True, slots=True)
class GenerationRule:
    """How text is generated.

    Attributes:
        max_new_tokens: longest answer (in tokens).
        temperature: 0 takes the likeliest token; above 0 samples.
        top_p: smallest probability mass that is sampled from, in (0, 1].
        seed: with an item's id and the chain's number, of the sampling.
        stop: texts an answer ends before.
        adds_bos: whether the tokenizer's BOS id stands first; a prompt that is cut keeps it.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    stop: tuple[str, ...] = ()
    adds_bos: bool = False


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the ids that are fed; `number` is its place among the prompts."""

    number: int
    id: str
    chain: int
    token_ids: tuple[int, ...]
    truncated: bool


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
        """
        ...


def encode_prompts(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], rule: GenerationRule, context_length: int
) -> list[EncodedPrompt]:
    """Return the ids that are fed for each prompt: exactly those of its text, after BOS where the rule says so.

    A prompt that leaves no room for `max_new_tokens` loses its left end (never BOS) and is marked.

    Raises:
        SettingsError: the context has no room for a prompt.
        DataError: a prompt has no tokens at all.
    """
    prefix = (tokenizer.bos_id,) if rule.adds_bos and tokenizer.bos_id is not None else ()
    room = context_length - rule.max_new_tokens - len(prefix)
    if room < 1:
        raise SettingsError(
            f"max_new_tokens is {rule.max_new_tokens}, which leaves a context of {context_length} tokens no prompt.",
            "Take fewer new tokens or a longer context.",
        )
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    ids_of = dict(zip(texts, tokenizer.encode_batch(texts) if texts else [], strict=True))
    encoded = []
    for number, prompt in enumerate(prompts):
        ids = ids_of[prompt.text]
        if not (prefix or ids):
            raise DataError(f"{prompt.id}: the prompt is empty, and no BOS stands before it")
        fed = (*prefix, *ids[-room:])
        encoded.append(EncodedPrompt(number, prompt.id, prompt.chain, fed, len(ids) > room))
    return encoded


def decode_answer(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], new_ids: Sequence[int], stop: Sequence[str] = ()
) -> str:
    """Return the text that new ids add to a prompt, up to the first of the `stop` texts.

    Prompt and answer are decoded together: SentencePiece drops the space before the first word of whatever it is
    given, so an answer decoded alone would lose its leading space.
    """
    # A model may have more rows than the vocabulary has pieces; those ids mean no text.
    known = [token_id for token_id in new_ids if token_id < tokenizer.vocabulary_size]
    before = tokenizer.decode(prompt_ids)
    whole = tokenizer.decode([*prompt_ids, *known])
    # Where the answer's first bytes spoil a character at the prompt's end, it is decoded alone.
    text = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(known)
    ends = [place for place in (text.find(mark) for mark in stop) if place >= 0]
    return text[: min(ends)] if ends else text


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


def find_truncated(encoded: Sequence[EncodedPrompt]) -> tuple[int, ...]:
    """Return the numbers of the prompts that lost their left end."""
    return tuple(prompt.number for prompt in encoded if prompt.truncated)


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
        own = getattr(model.generation_config, "eos_token_id", None)
        own_ids = [own] if isinstance(own, int) else list(own or ())
        self.end_ids = tuple(sorted({tokenizer.eos_id, *own_ids}))

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
        input_ids_BS, mask_BS = self._pad([prompt.token_ids for prompt in batch])
        processors = LogitsProcessorList()
        if rule.temperature > 0:
            seeds = [chain_seed(rule.seed, prompt.id, prompt.chain) for prompt in batch]
            processors.append(ChainSampler(seeds, rule.temperature, rule.top_p))
        criteria = StoppingCriteriaList()
        if rule.stop:
            criteria.append(TextStop(self.tokenizer, rule.stop, input_ids_BS.shape[1]))
        with _without_own_settings(self.model):
            # The sampler's noise makes the largest score a sample, so nothing else is drawn.
            rows = self.model.generate(
                input_ids_BS,
                attention_mask=mask_BS,
                past_key_values=self._read_once(batch),
                generation_config=self._config(rule.max_new_tokens),
                logits_processor=processors,
                stopping_criteria=criteria,
            )
        return [self._cut(row) for row in rows[:, input_ids_BS.shape[1] :].tolist()]

    def _read_once(self, batch: Sequence[EncodedPrompt]) -> DynamicCache | None:
        """Return the keys and values of all but each row's last token, each distinct prompt read once.

        None where all prompts differ, or where the model remembers in another way.
        """
        distinct = list(dict.fromkeys(prompt.token_ids for prompt in batch))
        longest = max(map(len, distinct))
        if len(distinct) == len(batch) or longest < 2:
            return None
        input_ids_BS, mask_BS = self._pad(distinct)
        if not bool(mask_BS[:, :-1].any(dim=1).all()):
            return None
        config = self._config(1)
        config.return_dict_in_generate = True
        with _without_own_settings(self.model):
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

    def _pad(self, rows: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids padded on the left, and the mask of the real ones."""
        longest = max(map(len, rows))
        input_ids = [[self.tokenizer.eos_id] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        device = self.model.device
        return torch.tensor(input_ids, device=device), torch.tensor(mask, device=device)

    def _config(self, max_new_tokens: int) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=list(self.end_ids),
            pad_token_id=self.tokenizer.eos_id,
        )

    def _cut(self, new_ids: Sequence[int]) -> list[int]:
        ends = [place for place, token_id in enumerate(new_ids) if token_id in self.end_ids]
        return list(new_ids[: ends[0]] if ends else new_ids)


@contextmanager
def _without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Keep `generate` from filling in the model's own settings, such as a repetition penalty of a chat model."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
