"""Replies are those of a model that reads everything anew, and cost only what is new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from speaking import GREEDY, QUESTIONS, SAMPLED, STYLES, MakeSpeaker, Turns, ask, generate, script, talk
from tiny import build_tiny
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    LogitsProcessorList,
    MambaConfig,
    MambaForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    RwkvConfig,
    RwkvForCausalLM,
)

from biomedllama_cli.chat.speaker import Speaker, TokenChoice
from biomedllama_cli.chat.style import choose_style
from biomedllama_cli.evaluation.sampling import ChainSampler
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.settings.chat import ReplySettings


@pytest.mark.parametrize("style", STYLES)
def test_a_turn_costs_only_its_new_tokens_and_says_what_a_fresh_reading_says(
    style: str, make_speaker: MakeSpeaker
) -> None:
    speaker = make_speaker(style)
    known = 0
    for turns, reply in talk(speaker):
        prompt_ids = speaker.memory.ids[: reply.prompt_tokens]
        assert reply.text == generate(speaker, prompt_ids)
        assert speaker.tokenizer.decode(prompt_ids) == speaker.tokenizer.decode(
            speaker.style.encode(speaker.tokenizer, turns)
        )
        # All that was read or said before is known but for the last token, which the model said and never read.
        assert reply.reused_tokens == known
        assert (reply.new_tokens, reply.finish) == (12, "length")
        known = reply.prompt_tokens + reply.new_tokens - 1
        assert speaker.memory.tokens_computed == known


@pytest.mark.parametrize("style", STYLES)
def test_words_that_the_model_spelled_its_own_way_are_not_read_again(
    style: str, make_speaker: MakeSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = make_speaker(style)
    spelled = [i for letter in "The blood." for i in speaker.tokenizer.encode(letter)]
    assert spelled != speaker.tokenizer.encode("The blood.")
    turns: Turns = [("user", QUESTIONS[0])]
    script(monkeypatch, spelled)
    reply = ask(speaker, turns, GREEDY.model_copy(update={"max_new_tokens": len(spelled)}))
    monkeypatch.undo()
    turns += [("assistant", reply.text), ("user", QUESTIONS[1])]
    stream = speaker.stream(turns, GREEDY, noise_seed=1)
    text = "".join(stream)
    assert stream.reply.reused_tokens == reply.prompt_tokens + len(spelled) - 1
    assert text == generate(speaker, stream.prompt_ids)
    # A speaker that did not say them itself reads them as they are encoded.
    assert len(make_speaker(style).stream(turns, GREEDY, noise_seed=1).prompt_ids) < len(stream.prompt_ids)


@pytest.mark.parametrize("style", STYLES)
def test_asking_again_reads_one_token_and_going_back_reads_the_new_question(
    style: str, make_speaker: MakeSpeaker
) -> None:
    speaker = make_speaker(style)
    (first_turns, first), (turns, second), *_ = talk(speaker)
    before = speaker.memory.tokens_computed
    again = ask(speaker, turns, SAMPLED)
    assert again.reused_tokens == second.prompt_tokens - 1
    assert speaker.memory.tokens_computed - before == 1 + 11
    before = speaker.memory.tokens_computed
    other = ask(speaker, [*first_turns, ("assistant", first.text), ("user", "Says who?")])
    # The first exchange is still known, and the words that begin both questions' turns.
    assert other.reused_tokens >= first.prompt_tokens + first.new_tokens - 1
    assert speaker.memory.tokens_computed - before == other.prompt_tokens - other.reused_tokens + 11
    assert other.text == generate(speaker, speaker.memory.ids[: other.prompt_tokens])


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gemma3-wrapper", "mistral"])
def test_families_with_and_without_windows_say_what_transformers_generates(
    family: str, tmp_path: Path
) -> None:
    folder = build_tiny(family, tmp_path / family)
    tokenizer = load_tokenizer(str(folder))
    speaker = Speaker(
        load_model(str(folder)),
        tokenizer,
        choose_style(tokenizer, str(folder), "instructed"),
        context_length=512,
    )
    assert speaker.memory.keeps
    turns: Turns = []
    for question in QUESTIONS:
        turns.append(("user", question))
        before = speaker.memory.tokens_computed
        stream = speaker.stream(turns, GREEDY, noise_seed=1)
        list(stream)
        reply = stream.reply
        assert reply.text.rstrip("\ufffd") == generate(speaker, stream.prompt_ids, reply.new_tokens).rstrip(
            "\ufffd"
        )
        fed = speaker.memory.tokens_computed - before
        assert fed == reply.prompt_tokens - reply.reused_tokens + reply.new_tokens - 1
        turns.append(("assistant", reply.text))
    assert reply.reused_tokens > reply.prompt_tokens // 2


RECURRENT = {
    "mamba": lambda size: MambaForCausalLM(
        MambaConfig(vocab_size=size, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.4)
    ),
    "hybrid": lambda size: Lfm2ForCausalLM(
        Lfm2Config(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["conv", "full_attention"],
            initializer_range=0.4,
        )
    ),
    "without a cache": lambda size: RwkvForCausalLM(
        RwkvConfig(vocab_size=size, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16)
    ),
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_states_that_cannot_be_cut_back_are_computed_anew(kind: str, tiny_chat_folder: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_chat_folder))
    torch.manual_seed(2)
    model = RECURRENT[kind](tokenizer.vocabulary_size)
    style = choose_style(tokenizer, str(tiny_chat_folder), "instructed")
    speaker = Speaker(model, tokenizer, style, context_length=512)
    turns: Turns = []
    for question in QUESTIONS:
        turns.append(("user", question))
        stream = speaker.stream(turns, GREEDY, noise_seed=1)
        list(stream)
        assert stream.reply.reused_tokens == 0
        assert stream.reply.text.rstrip("\ufffd") == generate(
            speaker, stream.prompt_ids, stream.reply.new_tokens
        ).rstrip("\ufffd")
        turns.append(("assistant", stream.reply.text))


def test_a_long_prompt_is_read_in_parts_and_projected_once_each(
    make_speaker: MakeSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.chat.memory.CHUNK_TOKENS", 32)
    speaker = make_speaker()
    shapes: list[tuple[int, int]] = []
    forward = type(speaker.model).forward

    def watch(self: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = forward(self, input_ids, **kwargs)
        shapes.append((input_ids.shape[1], output.logits.shape[1]))
        return output

    monkeypatch.setattr(type(speaker.model), "forward", watch)
    stream = speaker.stream([("user", "What is aspirin? " * 30)], GREEDY, noise_seed=1)
    text = "".join(stream)
    monkeypatch.undo()
    length = stream.reply.prompt_tokens
    assert length > 300  # beyond the first room
    assert shapes[: length // 32] == [(32, 1)] * (length // 32)
    assert shapes[length // 32 :] == [(length % 32, 1)] + [(1, 1)] * 11
    assert text == generate(speaker, stream.prompt_ids)
    # No room is kept for more than the context.
    assert {layer.keys.shape[-2] for layer in speaker.memory._cache.layers} == {speaker.context_length}


def test_a_seed_says_the_same_again_and_others_differ(make_speaker: MakeSpeaker) -> None:
    turns = [("user", QUESTIONS[0])]
    speaker = make_speaker()
    texts = [ask(speaker, turns, SAMPLED, seed=seed).text for seed in (1, 2, 1)]
    assert texts[0] == texts[2] == ask(make_speaker(), turns, SAMPLED, seed=1).text
    assert len({*texts, ask(speaker, turns).text}) == 3


@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("spread", [0.2, 4.0])  # nearly even scores need more tokens than are sorted at first
@pytest.mark.parametrize("ties", [False, True])  # scores of narrow dtypes are often equal
def test_tokens_are_drawn_as_evaluation_draws_them(top_p: float, spread: float, ties: bool) -> None:
    choice = TokenChoice(ReplySettings(temperature=0.8, top_p=top_p), 7)
    sampler = ChainSampler([7], 0.8, top_p)
    scores = torch.randn(60, 3000, generator=torch.Generator().manual_seed(1)) * spread
    scores = scores.round() if ties else scores
    drawn = [choice.choose(row[None]) for row in scores]
    assert drawn == [int(sampler(row[None], row[None]).argmax()) for row in scores]
    assert len(set(drawn)) > 40


def test_the_penalty_is_that_of_transformers_over_the_reply_alone(make_speaker: MakeSpeaker) -> None:
    speaker = make_speaker()
    settings = GREEDY.model_copy(update={"repetition_penalty": 1.9, "max_new_tokens": 50})
    stream = speaker.stream([("user", QUESTIONS[0])], settings, noise_seed=1)
    text = "".join(stream)
    processors = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(1.9, prompt_ignore_length=len(stream.prompt_ids))]
    )
    ids = torch.tensor([stream.prompt_ids])
    rows = speaker.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=50,
        do_sample=False,
        pad_token_id=0,
        logits_processor=processors,
    )
    assert text == speaker.tokenizer.decode(rows[0, len(stream.prompt_ids) :].tolist())
    assert text != generate(speaker, stream.prompt_ids, 50)


def test_speed_and_time_are_told(tiny_speaker: Speaker) -> None:
    reply = ask(tiny_speaker, [("user", QUESTIONS[0])])
    assert 0 < reply.seconds_to_first_token < reply.seconds
    assert reply.tokens_per_second is not None
