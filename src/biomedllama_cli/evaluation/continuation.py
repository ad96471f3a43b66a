"""What everything that lets a model write on needs: padded rows, the end of a row, and `generate` by transformers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from biomedllama_cli.evaluation.answer_text import TextStop
from biomedllama_cli.evaluation.changing_positions import change_with_length, forget_lengths
from biomedllama_cli.evaluation.sampling import ChainSampler, check_scores
from biomedllama_cli.models.tokenizer import Tokenizer

RowFinish = Literal["end", "stop", "length", "repetition"]
"""Why a row ended: at an id of the model's, at a stop text, as long as it may be, or since it repeats itself."""


@dataclass(frozen=True, slots=True)
class ContinuationRule:
    """How rows are continued.

    Attributes:
        temperature: 0 takes the likeliest token; above 0 samples.
        top_p: smallest probability mass that is sampled from, in (0, 1].
        repetition_penalty: factor on the scores of tokens that the row's new text holds; 1 changes nothing.
        stop: texts a row ends at.
        end_ids: ids a row ends at.
        find_loop: the length that new ids are cut to when they say the same over and over, else None.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    end_ids: tuple[int, ...] = ()
    find_loop: Callable[[Sequence[int]], int | None] | None = None


@dataclass(frozen=True, slots=True)
class RowRequest:
    """A row to continue.

    Attributes:
        token_ids: of the prompt.
        max_new_tokens: longest continuation (in tokens).
        noise_seed: of the sampling.
    """

    token_ids: tuple[int, ...]
    max_new_tokens: int
    noise_seed: int = 0


@dataclass(frozen=True, slots=True)
class Continued:
    """A row that is at its end.

    Attributes:
        new_ids: without the id it ended at, and without what was said over and over.
        new_tokens: how many were computed, the end included.
        finish: why it ended.
    """

    new_ids: tuple[int, ...]
    new_tokens: int
    finish: RowFinish


class RowEnd:
    """Tells whether a row is at its end.

    Args:
        tokenizer: decodes new ids.
        rule: of the rows.
    """

    def __init__(self, tokenizer: Tokenizer, rule: ContinuationRule) -> None:
        self._end_ids = frozenset(rule.end_ids)
        self._texts = TextStop(tokenizer, rule.stop) if rule.stop else None
        self._find_loop = rule.find_loop

    def find(self, row: RowRequest, new_ids: Sequence[int]) -> Continued | None:
        """Return the row with `new_ids` behind its prompt, or None where the last of them does not end it."""
        finish: RowFinish | None = None
        kept = len(new_ids)
        if new_ids[-1] in self._end_ids:
            finish, kept = "end", kept - 1
        elif self._texts is not None and self._texts.holds(row.token_ids, new_ids):
            finish = "stop"
        elif self._find_loop is not None and (loop := self._find_loop(new_ids)) is not None:
            finish, kept = "repetition", loop
        elif len(new_ids) >= row.max_new_tokens:
            finish = "length"
        return None if finish is None else Continued(tuple(new_ids[:kept]), len(new_ids), finish)


def find_end_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that end a text: the tokenizer's EOS and those of the model's own generation settings."""
    own = getattr(model.generation_config, "eos_token_id", None)
    own_ids = [own] if isinstance(own, int) else list(own or ())
    return tuple(sorted({tokenizer.eos_id, *own_ids}))


def pad_left(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids padded on the left, and the mask of the real ones, shapes [B, S]."""
    longest = max(map(len, rows))
    input_ids = [[pad_id] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(input_ids, device=device), torch.tensor(mask, device=device)


def build_config(max_new_tokens: int, end_ids: Collection[int], pad_id: int) -> GenerationConfig:
    """Return settings of `generate` that draw nothing: whatever noise there is comes from a sampler."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id,
    )


@contextmanager
def without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Keep `generate` from filling in the model's own settings, such as a repetition penalty of a chat model."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def continue_padded(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    requests: Sequence[RowRequest],
    rule: ContinuationRule,
    *,
    cache: DynamicCache | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[Continued]:
    """Continue rows by transformers' `generate`, all of them until the last one ends.

    Where positions change with the length of the longest row, each row is continued alone.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        requests: the rows.
        rule: how they are continued.
        cache: of all but the last token of each row, where that was read before.
        tick: called after every token; what it raises ends the work.

    Raises:
        ModelError: the model's scores are no numbers.
    """
    if change_with_length(model):
        if len(requests) > 1:
            return [continue_padded(model, tokenizer, [one], rule, tick=tick)[0] for one in requests]
        forget_lengths(model)
    input_ids_BS, mask_BS = pad_left([row.token_ids for row in requests], tokenizer.eos_id, model.device)
    length = input_ids_BS.shape[1]
    ends = _RowEnds(RowEnd(tokenizer, rule), requests, length, tick)
    config = build_config(max(row.max_new_tokens for row in requests), rule.end_ids, tokenizer.eos_id)
    with without_own_settings(model):
        model.generate(
            input_ids_BS,
            attention_mask=mask_BS,
            past_key_values=cache,
            generation_config=config,
            logits_processor=_build_processors(requests, rule, ends),
            stopping_criteria=StoppingCriteriaList([ends]),
        )
    return [found for found in ends.found if found is not None]  # all: none is longer than its limit


def _build_processors(
    requests: Sequence[RowRequest], rule: ContinuationRule, ends: _RowEnds
) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if rule.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(rule.repetition_penalty, ends.prompt_length))
    if rule.temperature > 0:
        seeds = [row.noise_seed for row in requests]
        processors.append(ChainSampler(seeds, rule.temperature, rule.top_p))
    processors.append(_CheckedScores(ends))
    return processors


class _RowEnds(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of `generate` by its own `RowEnd`."""

    def __init__(
        self, end: RowEnd, requests: Sequence[RowRequest], prompt_length: int, tick: Callable[[], None]
    ) -> None:
        self.prompt_length = prompt_length
        self.found: list[Continued | None] = [None] * len(requests)
        self._end, self._requests, self._tick = end, requests, tick

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """Return whether each row is done, shape [B]."""
        self._tick()
        rows = input_ids[:, self.prompt_length :].tolist()
        for number, (request, new_ids) in enumerate(zip(self._requests, rows, strict=True)):
            if self.found[number] is None:
                self.found[number] = self._end.find(request, new_ids)
        return torch.tensor([found is not None for found in self.found], device=input_ids.device)


class _CheckedScores(LogitsProcessor):  # type: ignore[misc]
    """Checks the scores of the rows that go on; what follows the end of another one is never read."""

    def __init__(self, ends: _RowEnds) -> None:
        self._ends = ends

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores as they are."""
        check_scores(scores[[found is None for found in self._ends.found]])
        return scores
