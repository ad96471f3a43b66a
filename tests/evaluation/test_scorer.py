"""Scores of shared rows: exact, independent of layout, interruptions and ranks, and frugal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from scorer_reference import draw, make_mixed, make_questions, score_all_alone, score_alone
from transformers import LlamaConfig, LlamaForCausalLM

from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.evaluation import projection
from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.scorer import SharedPrefixScorer, TokenSequence

CONTEXT = 100


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return build_model()


def build_model(
    dtype: torch.dtype = torch.float32, attention: str = "sdpa", **options: int
) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    config = LlamaConfig(
        **shape | options,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.4,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


@contextmanager
def counting_tokens(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[tuple[int, int]]]:
    """Note how many tokens each pass through the layers reads, and how many positions are projected after it."""
    seen: list[tuple[int, int]] = []

    def note_layer(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        seen.append((arguments[0].shape[0] * arguments[0].shape[1], 0))

    def note_blocks(model: LlamaForCausalLM, hidden_ND: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        seen[-1] = (seen[-1][0], seen[-1][1] + len(hidden_ND))
        return blocks(model, hidden_ND)

    blocks = projection.iter_blocks
    hook = model.model.layers[0].register_forward_pre_hook(note_layer)
    with monkeypatch.context() as patch:
        patch.setattr(projection, "iter_blocks", note_blocks)
        yield seen
    hook.remove()


def values(scored: dict[int, tuple[Likelihood, ...]]) -> dict[int, tuple[float, ...]]:
    return {number: tuple(one.value for one in likelihoods) for number, likelihoods in scored.items()}


def largest_difference(first: dict[int, tuple[float, ...]], second: dict[int, tuple[float, ...]]) -> float:
    assert first.keys() == second.keys()
    return max(abs(one - two) for key in first for one, two in zip(first[key], second[key], strict=True))


@pytest.mark.parametrize("row_tokens", [48, 128, 4096])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("sharing", ["auto", "off"])
def test_scores_are_those_of_one_sequence_at_a_time(
    model: LlamaForCausalLM, row_tokens: int, batch_size: int, sharing: str
) -> None:
    groups = make_mixed()
    scorer = SharedPrefixScorer(
        model, context_length=CONTEXT, row_tokens=row_tokens, batch_size=batch_size, sharing=sharing
    )
    scored = dict(scorer.score(groups))
    assert largest_difference(values(scored), score_all_alone(model, groups, CONTEXT)) < 1e-4
    for number, group in enumerate(groups):
        for one, sequence in zip(scored[number], group, strict=True):
            assert one.tokens == sequence.scored
            assert one.truncated == (len(sequence.token_ids) > CONTEXT + 1)
            assert one.greedy == score_alone(model, sequence, CONTEXT)[1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_is_told_where_each_token_is_the_likeliest(attention: str) -> None:
    model = build_model(attention=attention)
    context = draw(np.random.default_rng(0), 12)
    with torch.no_grad():
        likeliest = model.generate(
            torch.tensor([context]), max_new_tokens=3, do_sample=False, eos_token_id=None
        )
    ids = tuple(likeliest[0].tolist())
    other = (*ids[:-1], (ids[-1] + 1) % 64)
    ((_, scored),) = SharedPrefixScorer(model, context_length=CONTEXT).score(
        [(TokenSequence(ids, 3), TokenSequence(other, 3))]
    )
    assert [one.greedy for one in scored] == [True, False]


def test_shared_context_is_computed_once_and_only_scored_positions_are_projected(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tuple(range(30))
    group = tuple(TokenSequence((*context, 40 + option, 50, 51), 3) for option in range(4))
    scorer = SharedPrefixScorer(model, context_length=CONTEXT)
    with counting_tokens(model, monkeypatch) as seen:
        list(scorer.score([group]))
    # 30 of the context and two per option (the last token is never read), padded to a multiple of 16;
    # one position of the context and two per option predict something.
    assert seen == [(48, 9)]


def test_options_of_one_token_add_nothing_to_their_context(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tuple(TokenSequence((*range(32), option), 1) for option in range(5))
    scorer = SharedPrefixScorer(model, context_length=CONTEXT)
    with counting_tokens(model, monkeypatch) as seen:
        list(scorer.score([group]))
    assert seen == [(32, 1)]


def test_common_examples_are_computed_once_for_all_questions(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = make_questions(12, preamble=200)
    scorer = SharedPrefixScorer(model, context_length=400, row_tokens=128)
    with counting_tokens(model, monkeypatch) as seen:
        scored = dict(scorer.score(groups))
    assert sum(tokens for tokens, _ in seen) < 1000  # 12 x 200 tokens would be read otherwise
    assert largest_difference(values(scored), score_all_alone(model, groups, 400)) < 1e-4


def test_questions_may_continue_several_preambles_or_none(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [
        (*first, *second, TokenSequence((1, 2, 3), 2))
        for first, second in zip(
            make_questions(6, preamble=60, seed=3), make_questions(6, preamble=90, seed=4), strict=True
        )
    ]
    scorer = SharedPrefixScorer(model, context_length=400)
    with counting_tokens(model, monkeypatch) as seen:
        scored = dict(scorer.score(groups))
    assert largest_difference(values(scored), score_all_alone(model, groups, 400)) < 1e-4
    alone = sum(len({sequence.token_ids[:90] for sequence in group}) for group in groups)
    assert sum(tokens for tokens, _ in seen) < alone * 60


def test_layout_does_not_depend_on_what_is_finished_nor_on_ranks(model: LlamaForCausalLM) -> None:
    groups = make_questions(40, preamble=50) + make_mixed()
    scorer = SharedPrefixScorer(model, context_length=CONTEXT, row_tokens=96)
    whole = dict(scorer.score(groups))
    parts = [dict(scorer.score(groups, rank=rank, ranks=3)) for rank in range(3)]
    assert sum(map(len, parts)) == len(groups)
    assert parts[0] | parts[1] | parts[2] == whole
    finished = frozenset(parts[1])
    rest = dict(scorer.score(groups, finished=finished))
    assert rest == {number: one for number, one in whole.items() if number not in finished}
    assert dict(scorer.score(groups, finished=frozenset(range(len(groups))))) == {}


def test_interrupted_batch_is_computed_whole(model: LlamaForCausalLM) -> None:
    groups = make_questions(10)
    scorer = SharedPrefixScorer(model, context_length=CONTEXT, row_tokens=4096)
    whole = dict(scorer.score(groups))
    assert dict(scorer.score(groups, finished=frozenset({1, 5}))) == whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_size_changes_no_bit(dtype: torch.dtype) -> None:
    model = build_model(dtype, hidden_size=64, intermediate_size=192)
    groups = make_questions(60, preamble=40)
    one, four = (
        dict(SharedPrefixScorer(model, context_length=CONTEXT, row_tokens=64, batch_size=size).score(groups))
        for size in (1, 4)
    )
    assert one == four


def test_self_check_gives_the_difference_from_plain_rows(model: LlamaForCausalLM) -> None:
    groups = make_mixed()
    scorer = SharedPrefixScorer(model, context_length=CONTEXT)
    assert 0 < scorer.check(groups, [0, 6, 7]) < 1e-4
    half = SharedPrefixScorer(build_model(torch.bfloat16), context_length=CONTEXT)
    assert 1e-4 < half.check(groups, [0, 6, 7]) < 5


def test_vocabulary_in_blocks_gives_the_scores_of_the_whole(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = make_mixed()
    whole = dict(SharedPrefixScorer(model, context_length=CONTEXT).score(groups))
    monkeypatch.setitem(projection.BLOCK_PIECES, "cpu", 7)
    monkeypatch.setattr(projection, "BLOCK_POSITIONS", 10)
    scored = dict(SharedPrefixScorer(model, context_length=CONTEXT).score(groups))
    assert largest_difference(values(scored), values(whole)) < 1e-5
    assert all(
        one.greedy == other.greedy
        for number in whole
        for one, other in zip(scored[number], whole[number], strict=True)
    )


def test_output_table_that_is_wrapped_is_called_as_it_is(model: LlamaForCausalLM) -> None:
    class Halved(torch.nn.Module):
        def __init__(self, table: torch.nn.Linear) -> None:
            super().__init__()
            self.table, self.weight = table, table.weight

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.table(hidden) / 2

    halved = build_model()
    halved.lm_head = Halved(halved.lm_head)
    groups = make_questions(3)
    scored = values(dict(SharedPrefixScorer(halved, context_length=CONTEXT).score(groups)))
    assert largest_difference(scored, score_all_alone(halved, groups, CONTEXT)) < 1e-4
    assert largest_difference(scored, score_all_alone(model, groups, CONTEXT)) > 0.1


def test_model_is_left_as_it_was() -> None:
    model = build_model().train()
    model.model.layers[1].eval()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    list(SharedPrefixScorer(model, context_length=CONTEXT).score(make_questions(2)))
    assert model.training
    assert not model.model.layers[1].training
    assert model.model.layers[0].training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert not model.lm_head._forward_pre_hooks


def test_answers_that_are_no_numbers_end_with_a_hint() -> None:
    model = build_model()
    scorer = SharedPrefixScorer(model, context_length=CONTEXT)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.inf)
    with pytest.raises(ModelError, match="finite") as raised:
        list(scorer.score(make_questions(1)))
    assert "--dtype bf16" in raised.value.hint


def test_continuation_longer_than_the_context_is_refused(model: LlamaForCausalLM) -> None:
    scorer = SharedPrefixScorer(model, context_length=4)
    with pytest.raises(DataError, match="5 tokens are to be scored; the context holds 4"):
        list(scorer.score([(TokenSequence((1, 2, 3, 4, 5, 6), 5),)]))


@pytest.mark.parametrize("scored", [0, 3])
def test_sequence_needs_a_context_and_something_to_score(scored: int) -> None:
    with pytest.raises(ValueError, match="scored must be from 1 to 2"):
        TokenSequence((1, 2, 3), scored)


@pytest.mark.parametrize(
    ("ignored", "shares", "caches"), [("position_ids", False, False), ("past_key_values", True, False)]
)
def test_model_that_ignores_what_it_is_given_is_found_out(ignored: str, shares: bool, caches: bool) -> None:
    model = build_model()
    forward = model.model.forward

    def forward_without(**inputs: Any) -> Any:
        if ignored == "past_key_values" and inputs.get("attention_mask") is not None:
            length = inputs["input_ids"].shape[1]
            inputs["attention_mask"] = inputs["attention_mask"][..., -length:]
        inputs.pop(ignored, None)
        return forward(**inputs)

    model.model.forward = forward_without
    scorer = SharedPrefixScorer(model, context_length=CONTEXT, row_tokens=96)
    assert (scorer.support.shares, scorer.support.caches) == (shares, caches)
    assert "log-likelihoods differ by" in scorer.support.reasons[0]
    groups = make_mixed()
    scored = values(dict(scorer.score(groups)))
    assert largest_difference(scored, score_all_alone(model, groups, CONTEXT)) < 1e-4
