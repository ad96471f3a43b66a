"""Rows that leave and enter a batch are continued as if each were alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import load_chat_model
from transformers import MistralConfig, MistralForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from biomedllama_cli.errors import ModelError
from biomedllama_cli.evaluation.continuation import (
    ContinuationRule,
    Continued,
    RowEnd,
    RowRequest,
    continue_padded,
    find_end_ids,
)
from biomedllama_cli.evaluation.refilling import RefilledBatch, can_refill
from biomedllama_cli.evaluation.sampling import chain_seed
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "### Question: Which vitamin is made in the skin?\n\n### Answer:(",
    "Aspirin",
    "Insulin lowers the sugar of the blood. " * 4,
    "Does aspirin thin the blood? Answer: ",
    "Iron",
    "The heart has four chambers, and the blood",
    "A fever",
    "Which bone is the longest of the body? ",
    "Zinc is",
]
LIMITS = (12, 3, 25, 8, 25, 1, 17, 5, 9)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Any) -> Tokenizer:
    return load_tokenizer(str(tiny_model.folder))


@pytest.fixture(scope="module")
def requests(tokenizer: Tokenizer) -> list[RowRequest]:
    return [
        RowRequest(tuple(tokenizer.encode(text)), limit, chain_seed(3, str(number), 0))
        for number, (text, limit) in enumerate(zip(TEXTS, LIMITS, strict=True))
    ]


def run_refilled(
    tiny: Any, tokenizer: Tokenizer, requests: list[RowRequest], rule: ContinuationRule, size: int
) -> list[Continued]:
    found = dict(RefilledBatch(tiny.model, tokenizer, rule, batch_size=size).run(requests))
    return [found[number] for number in range(len(requests))]


def rules(tiny: Any, tokenizer: Tokenizer) -> Iterator[ContinuationRule]:
    end_ids = find_end_ids(tiny.model, tokenizer)
    yield ContinuationRule(end_ids=end_ids)
    yield ContinuationRule(temperature=0.8, top_p=0.9, end_ids=end_ids)
    yield ContinuationRule(temperature=1.2, repetition_penalty=1.5, end_ids=end_ids, stop=("e", "in"))
    yield ContinuationRule(end_ids=end_ids, find_loop=lambda ids: 4 if len(ids) >= 6 else None)


@pytest.mark.parametrize("number", range(4), ids=["greedy", "sampled", "penalised", "guarded"])
def test_rows_are_continued_as_if_alone_whatever_the_size_of_the_batch(
    tiny_model: Any, tokenizer: Tokenizer, requests: list[RowRequest], number: int
) -> None:
    rule = list(rules(tiny_model, tokenizer))[number]
    alone = [continue_padded(tiny_model.model, tokenizer, [one], rule)[0] for one in requests]
    assert continue_padded(tiny_model.model, tokenizer, requests, rule) == alone
    for size in (1, 2, 3, 16):
        assert run_refilled(tiny_model, tokenizer, requests, rule, size) == alone
    assert len({one.new_tokens for one in alone}) > 2


def test_rows_end_for_the_reason_they_say(tiny_model: Any, tokenizer: Tokenizer) -> None:
    ids = tuple(tokenizer.encode(TEXTS[0]))
    (plain,) = continue_padded(tiny_model.model, tokenizer, [RowRequest(ids, 12)], ContinuationRule())
    assert (plain.finish, plain.new_tokens, len(plain.new_ids)) == ("length", 12, 12)

    def end_by(**rule: Any) -> Continued:
        request = [RowRequest(ids, 12)]
        return run_refilled(tiny_model, tokenizer, request, ContinuationRule(**rule), 2)[0]

    end = plain.new_ids.index(plain.new_ids[4])
    assert end_by(end_ids=(plain.new_ids[4],)) == Continued(plain.new_ids[:end], end + 1, "end")
    text = tokenizer.decode(plain.new_ids)
    stopped = end_by(stop=(text[5:8],))
    assert stopped.finish == "stop"
    assert text[5:8] in tokenizer.decode(stopped.new_ids)
    looped = end_by(find_loop=lambda new_ids: 3 if len(new_ids) == 7 else None)
    assert looped == Continued(plain.new_ids[:3], 7, "repetition")


def test_a_row_that_is_done_leaves_and_another_one_takes_its_place(
    tiny_model: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[tuple[int, ...]] = []
    forward = type(tiny_model.model).forward

    def count(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        fed.append(tuple(input_ids.shape))
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(tiny_model.model), "forward", count)
    requests = [RowRequest((5, 6, 7), limit) for limit in (2, 6, 4)]
    run_refilled(tiny_model, tokenizer, requests, ContinuationRule(), 2)
    # Two are read and write one token more; the first one leaves, the third is read; and so on, until one is left.
    assert fed == [(2, 3), (2, 1), (1, 3), (2, 1), (2, 1), (2, 1), (1, 1)]


def test_models_that_forget_are_not_refilled(tiny_model: Any) -> None:
    assert can_refill(tiny_model.model)
    config = MistralConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    assert not can_refill(MistralForCausalLM(config))


def test_a_model_that_remembers_nothing_is_not_refilled_and_answers_in_a_batch(
    tokenizer: Tokenizer, requests: list[RowRequest]
) -> None:
    config = OpenAIGPTConfig(
        vocab_size=384, n_positions=128, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4
    )
    torch.manual_seed(0)
    model = OpenAIGPTLMHeadModel(config).eval()
    assert not can_refill(model)
    short = [RowRequest(row.token_ids[-40:], row.max_new_tokens) for row in requests]
    rule = ContinuationRule(end_ids=(tokenizer.eos_id,))
    alone = [continue_padded(model, tokenizer, [row], rule)[0] for row in short]
    assert continue_padded(model, tokenizer, short, rule) == alone


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("refilled", [True, False])
def test_scores_that_are_no_numbers_are_told(
    tiny_model: Any,
    tokenizer: Tokenizer,
    temperature: float,
    refilled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after_end: list[bool] = []
    rule = ContinuationRule(temperature=temperature, top_p=0.9, end_ids=(tokenizer.eos_id,))
    requests = [RowRequest((5, 6, 7), limit) for limit in (2, 6)]
    forward = type(tiny_model.model).forward

    def overflow(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, input_ids, *args, **kwargs)
        ended = (input_ids[:, -1] == tokenizer.eos_id).tolist()
        after_end.extend(ended)
        output.logits[ended] = float("nan")
        return output

    def run() -> list[Continued]:
        if refilled:
            return run_refilled(tiny_model, tokenizer, requests, rule, 2)
        return continue_padded(tiny_model.model, tokenizer, requests, rule)

    plain = run()
    monkeypatch.setattr(type(tiny_model.model), "forward", overflow)
    assert run() == plain
    assert any(after_end) != refilled  # what follows the end of a row is nobody's
    requests.append(RowRequest((5, tokenizer.eos_id), 3))
    with pytest.raises(ModelError, match="no numbers"):
        run()


def test_a_stop_text_with_a_space_is_seen_at_the_beginning_and_later(tmp_path: Path) -> None:
    tokenizer, _ = load_chat_model("sentencepiece", "zephyr", tmp_path / "sentencepiece")
    row = RowRequest(tuple(tokenizer.encode("The blood")), 100)
    end = RowEnd(tokenizer, ContinuationRule(stop=(" of",)))
    of, *others = tokenizer.encode("of the heart")
    assert tokenizer.decode([of]) == "of"
    assert tokenizer.decode([*row.token_ids, of]) == "The blood of"
    assert end.find(row, [of]) == Continued((of,), 1, "stop")
    # What the prompt ends with is no part of the reply.
    assert end.find(RowRequest((*row.token_ids, of), 100), others[:1]) is None
    # Beyond the first ids, which are decoded with the prompt, too.
    long = others * 8
    assert end.find(row, long) is None
    found = end.find(row, [*long, of])
    assert found is not None
    assert found.finish == "stop"
