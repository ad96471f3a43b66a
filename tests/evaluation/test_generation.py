"""What a model writes does not depend on batches, order, ranks or interruptions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.answer_text import decode_answer
from biomedllama_cli.evaluation.generation import HuggingFaceGenerator
from biomedllama_cli.evaluation.prompting import (
    GenerationRule,
    Prompt,
    encode_prompts,
    find_truncated,
)
from biomedllama_cli.evaluation.sampling import ChainSampler, keep_likeliest
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer

GREEDY = GenerationRule(max_new_tokens=12)
SAMPLED = GenerationRule(max_new_tokens=12, temperature=0.8, top_p=0.9, seed=7)
PROMPTS = [
    Prompt("a", "### Question: Which vitamin is made in the skin?\n\n### Answer:("),
    Prompt("b", "### Answer:("),
    Prompt("c", "Insulin lowers the sugar of the blood. " * 4 + "\n\n### Answer:"),
    Prompt("d", "Aspirin"),
    Prompt("e", "Does aspirin thin the blood? Answer: "),
]
CHAINS = [Prompt(prompt.id, prompt.text, chain) for prompt in PROMPTS for chain in range(5)]


def build(tiny: Any, *, batch_size: int, context_length: int = 256) -> HuggingFaceGenerator:
    tokenizer = load_tokenizer(str(tiny.folder))
    return HuggingFaceGenerator(tiny.model, tokenizer, context_length=context_length, batch_size=batch_size)


def greedy_by_hand(tiny: Any, ids: list[int], count: int) -> list[int]:
    """Take the likeliest token again and again, each time over the whole text."""
    new: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            best = int(tiny.model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if best == tiny.tokenizer.eos_token_id:
            break
        new.append(best)
    return new


def test_greedy_text_is_that_of_a_loop_without_padding_or_cache(tiny_model: Any) -> None:
    tokenizer = load_tokenizer(str(tiny_model.folder))
    got = dict(build(tiny_model, batch_size=8).generate(PROMPTS, GREEDY))
    for number, prompt in enumerate(PROMPTS):
        ids = tokenizer.encode(prompt.text)
        assert got[number] == decode_answer(tokenizer, ids, greedy_by_hand(tiny_model, ids, 12))
    assert any(got.values())


@pytest.mark.parametrize("rule", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_text_is_the_same_in_any_batch_and_order(tiny_model: Any, rule: GenerationRule) -> None:
    one = dict(build(tiny_model, batch_size=1).generate(CHAINS, rule))
    eight = dict(build(tiny_model, batch_size=8).generate(CHAINS, rule))
    shuffled = list(CHAINS)
    random.Random(3).shuffle(shuffled)
    other = dict(build(tiny_model, batch_size=7).generate(shuffled, rule))
    assert one == eight
    assert {shuffled[number]: text for number, text in other.items()} == {
        CHAINS[number]: text for number, text in one.items()
    }


def test_chains_differ_from_each_other_and_between_items_and_seeds(tiny_model: Any) -> None:
    generator = build(tiny_model, batch_size=8)
    same_text = [Prompt(item, "Aspirin is", chain) for item in ("x", "y") for chain in range(3)]
    texts = [text for _, text in sorted(generator.generate(same_text, SAMPLED))]
    assert len(set(texts)) == 6
    reseeded = GenerationRule(max_new_tokens=12, temperature=0.8, top_p=0.9, seed=8)
    assert [text for _, text in sorted(generator.generate(same_text, reseeded))] != texts


def test_interrupted_and_shared_runs_add_up_to_one_run(tiny_model: Any) -> None:
    generator = build(tiny_model, batch_size=4)
    whole = dict(generator.generate(CHAINS, SAMPLED))
    stream: Iterator[tuple[int, str]] = generator.generate(CHAINS, SAMPLED)
    first = dict(next(stream) for _ in range(10))
    rest = dict(generator.generate(CHAINS, SAMPLED, finished=frozenset(first)))
    assert first.keys() & rest.keys() == set()
    assert first | rest == whole
    parts = [dict(generator.generate(CHAINS, SAMPLED, rank=rank, ranks=3)) for rank in range(3)]
    assert sum(map(len, parts)) == len(CHAINS)
    assert parts[0] | parts[1] | parts[2] == whole


def test_prompts_of_many_chains_are_read_once(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[tuple[int, ...]] = []
    forward = type(tiny_model.model).forward

    def count(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        fed.append(tuple(input_ids.shape))
        return forward(self, input_ids, *args, **kwargs)

    generator = build(tiny_model, batch_size=5)
    monkeypatch.setattr(type(tiny_model.model), "forward", count)
    length = len(generator.tokenizer.encode(PROMPTS[0].text))
    list(generator.generate(CHAINS[:5], SAMPLED))
    assert fed[0] == (1, length - 1)
    assert set(fed[1:]) == {(5, 1)}


def test_sliding_windows_and_shared_reading_agree(tiny_model: Any) -> None:
    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.4,
    )
    tokenizer = load_tokenizer(str(tiny_model.folder))
    model = MistralForCausalLM(config)
    texts = [
        dict(
            HuggingFaceGenerator(model, tokenizer, context_length=256, batch_size=size).generate(
                CHAINS, SAMPLED
            )
        )
        for size in (1, 10)
    ]
    assert texts[0] == texts[1]


def test_a_model_own_settings_change_nothing_and_come_back(tiny_model: Any) -> None:
    generator = build(tiny_model, batch_size=4)
    plain = dict(generator.generate(PROMPTS, GREEDY))
    own = tiny_model.model.generation_config
    try:
        chatty = GenerationConfig(
            repetition_penalty=5.0, do_sample=True, temperature=3.0, min_new_tokens=3, eos_token_id=1
        )
        tiny_model.model.generation_config = chatty
        assert dict(generator.generate(PROMPTS, GREEDY)) == plain
        assert tiny_model.model.generation_config is chatty
    finally:
        tiny_model.model.generation_config = own


def test_generation_ends_at_every_end_token_of_the_model(tiny_model: Any) -> None:
    generator = build(tiny_model, batch_size=1)
    ids = generator.tokenizer.encode(PROMPTS[0].text)
    new_ids = greedy_by_hand(tiny_model, ids, 12)
    end = new_ids[4]
    own = tiny_model.model.generation_config
    try:
        tiny_model.model.generation_config = GenerationConfig(eos_token_id=[1, end])
        ((_, text),) = build(tiny_model, batch_size=1).generate(PROMPTS[:1], GREEDY)
    finally:
        tiny_model.model.generation_config = own
    assert text == decode_answer(generator.tokenizer, ids, new_ids[: new_ids.index(end)])


def test_answers_end_before_a_stop_text(tiny_model: Any) -> None:
    generator = build(tiny_model, batch_size=8)
    plain = dict(generator.generate(PROMPTS, GenerationRule(max_new_tokens=40)))
    mark = plain[0][5:8]
    stopped = dict(
        generator.generate(PROMPTS, GenerationRule(max_new_tokens=40, stop=(mark, "never-written")))
    )
    assert stopped == {number: text.split(mark)[0] for number, text in plain.items()}
    assert stopped[0] != plain[0]


def test_a_stop_text_ends_the_work_too(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = build(tiny_model, batch_size=1)
    ((_, text),) = generator.generate(PROMPTS[:1], GenerationRule(max_new_tokens=60))
    steps = []
    forward = type(tiny_model.model).forward
    monkeypatch.setattr(
        type(tiny_model.model), "forward", lambda *a, **k: (steps.append(1), forward(*a, **k))[1]
    )
    list(generator.generate(PROMPTS[:1], GenerationRule(max_new_tokens=60, stop=(text[3:5],))))
    assert len(steps) < 15


def test_the_ids_fed_are_those_of_the_text_and_bos_stays_when_it_is_cut(tiny_model_with_bos: Any) -> None:
    tokenizer = load_tokenizer(str(tiny_model_with_bos.folder))
    text = "Does aspirin thin the blood? " * 10 + "### Answer:("
    ids = tokenizer.encode(text)
    assert tokenizer.bos_id == 0
    plain = GenerationRule(max_new_tokens=10)
    with_bos = GenerationRule(max_new_tokens=10, adds_bos=True)
    (whole,) = encode_prompts(tokenizer, [Prompt("a", text)], plain, 512)
    assert whole.token_ids == tuple(ids)
    assert not whole.truncated
    (cut,) = encode_prompts(tokenizer, [Prompt("a", text)], with_bos, 40)
    assert cut.token_ids == (0, *ids[-29:])
    assert find_truncated([whole, cut]) == (0,)
    exact = len(ids) + 11
    assert not encode_prompts(tokenizer, [Prompt("a", text)], with_bos, exact)[0].truncated
    assert encode_prompts(tokenizer, [Prompt("a", text)], with_bos, exact - 1)[0].truncated


def test_a_context_without_room_and_an_empty_prompt_are_refused(tiny_model: Any) -> None:
    tokenizer = load_tokenizer(str(tiny_model.folder))
    with pytest.raises(SettingsError, match="max_new_tokens is 12"):
        encode_prompts(tokenizer, PROMPTS, GREEDY, 12)
    with pytest.raises(DataError, match="q7: the prompt is empty"):
        encode_prompts(tokenizer, [Prompt("q7", "")], GREEDY, 64)


def test_frequencies_of_chains_are_the_softmax(tiny_model: Any) -> None:
    generator = build(tiny_model, batch_size=2000)
    ids = generator.tokenizer.encode("Aspirin is")
    rule = GenerationRule(max_new_tokens=1, temperature=1.7, seed=11)
    encoded = encode_prompts(
        generator.tokenizer, [Prompt("q", "Aspirin is", c) for c in range(4000)], rule, 64
    )
    drawn = Counter(
        new_ids[0] if new_ids else generator.tokenizer.eos_id
        for start in (0, 2000)
        for new_ids in generator._continue(encoded[start : start + 2000], rule)
    )
    with torch.no_grad():
        probs = (tiny_model.model(torch.tensor([ids])).logits[0, -1].double() / 1.7).softmax(-1)
    check_frequencies(drawn, probs.tolist(), 4000)


def test_the_sampler_draws_the_softmax_of_the_likeliest() -> None:
    scores = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -6.0])
    sampler = ChainSampler(range(8000), temperature=1.3, top_p=0.9)
    drawn = Counter(sampler(torch.empty(0), scores.repeat(8000, 1)).argmax(-1).tolist())
    kept = keep_likeliest((scores / 1.3).log_softmax(-1)[None], 0.9)[0].exp()
    assert 6 not in drawn
    check_frequencies(drawn, (kept / kept.sum()).tolist(), 8000)


def check_frequencies(drawn: Counter[int], probs: Sequence[float], draws: int) -> None:
    """Compare by chi-square, rare tokens taken together."""
    common = [token for token, p in enumerate(probs) if p * draws >= 10]
    assert len(common) >= 4
    observed = [drawn[token] for token in common]
    expected = [probs[token] * draws for token in common]
    if draws - sum(expected) > 1e-6:
        observed.append(draws - sum(observed))
        expected.append(draws - sum(expected))
    assert chisquare(observed, [value * sum(observed) / sum(expected) for value in expected]).pvalue > 1e-3


def test_texts_keep_their_spaces_with_a_byte_level_vocabulary(tiny_model: Any) -> None:
    check_spaces(load_tokenizer(str(tiny_model.folder)))


def test_texts_keep_their_spaces_with_sentencepiece(shared_data: Path) -> None:
    tokenizer = load_tokenizer(str(shared_data / "tokenizer" / "llama" / "tokenizer.model"))
    assert tokenizer.kind == "sentencepiece"
    check_spaces(tokenizer)
    # Decoded alone, the answer would lose the space before its first word.
    ids = tokenizer.encode("### Answer: (A) Aspirin")
    assert tokenizer.decode(ids[5:])[0] != " "


def check_spaces(tokenizer: Tokenizer) -> None:
    whole = "### Question: Is β-carotene “safe”?\n\n### Answer:( (A) Aspirin  5 mg — naïve 漢字\n\nB"
    ids = tokenizer.encode(whole)
    seen = 0
    for cut in range(1, len(ids)):
        before = tokenizer.decode(ids[:cut])
        if whole.startswith(before):
            seen += 1
            assert decode_answer(tokenizer, ids[:cut], ids[cut:]) == whole[len(before) :]
    assert seen > 20


def test_ids_beyond_the_vocabulary_give_no_text(tiny_model: Any) -> None:
    tokenizer = load_tokenizer(str(tiny_model.folder))
    ids = tokenizer.encode("Aspirin helps")
    assert decode_answer(tokenizer, ids[:2], [*ids[2:], tokenizer.vocabulary_size + 5]) == decode_answer(
        tokenizer, ids[:2], ids[2:]
    )
