"""Answers in batches are those of the terminal, whatever stands in the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import load_chat_model
from parrots import Shelf
from transformers import LlamaConfig, LlamaForCausalLM

from biomedllama_cli.chat import answering
from biomedllama_cli.chat.answering import (
    LookedUp,
    answer_questions,
    choose_noise_seed,
    encode_questions,
    look_up,
    plan_waves,
)
from biomedllama_cli.chat.conversation import Reply
from biomedllama_cli.chat.questions_file import FileQuestion
from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.chat.style import choose_style
from biomedllama_cli.errors import DataError
from biomedllama_cli.settings.chat import ReplySettings
from conftest import MakeSpeaker

TEXTS = (
    "Which vitamin is made in the skin?",
    "Iron?",
    "Does aspirin thin the blood? " * 3,
    "Name the longest bone of the body.",
    "What does insulin do?",
    "A fever of 38.5 degrees, what now?",
    "Zinc",
)
QUESTIONS = [
    *(LookedUp(FileQuestion(f"q{number}", text), text) for number, text in enumerate(TEXTS)),
    LookedUp(
        FileQuestion(
            "talk", "And zinc?", (("system", "Be brief."), ("user", "Iron?"), ("assistant", "Yes."))
        ),
        "And zinc?",
    ),
]
GREEDY = ReplySettings(max_new_tokens=20, temperature=0)
SAMPLED = ReplySettings(max_new_tokens=20, temperature=0.9, top_p=0.9, repetition_penalty=1.2)


def answer(speaker: Speaker, reply: ReplySettings, batch_size: int, seed: int = 0) -> dict[int, Reply]:
    given = encode_questions(speaker, QUESTIONS, reply, seed)
    return dict(answer_questions(speaker, given, reply, batch_size=batch_size))


def facts(reply: Reply) -> tuple[Any, ...]:
    return reply.text, reply.finish, reply.prompt_tokens, reply.new_tokens, reply.dropped_turns


@pytest.mark.parametrize("reply", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("style", ["instructed", "chat"])
def test_answers_are_those_of_the_terminal_in_batches_of_any_size(
    make_speaker: MakeSpeaker, reply: ReplySettings, style: Any
) -> None:
    speaker = make_speaker(style)
    alone = []
    for one in QUESTIONS:
        fresh = make_speaker(style)
        stream = fresh.stream(one.turns, reply, noise_seed=choose_noise_seed(5, one.question.id))
        list(stream)
        alone.append(facts(stream.reply))
    for batch_size in (1, 3, 16):
        found = answer(speaker, reply, batch_size, seed=5)
        assert [facts(found[number]) for number in range(len(QUESTIONS))] == alone
    assert len({text for text, *_ in alone}) > 4


def test_another_seed_gives_other_samples_and_the_same_likeliest_tokens(tiny_speaker: Speaker) -> None:
    assert answer(tiny_speaker, GREEDY, 4, seed=1) == answer(tiny_speaker, GREEDY, 4, seed=2)
    assert answer(tiny_speaker, SAMPLED, 4, seed=1) != answer(tiny_speaker, SAMPLED, 4, seed=2)


def test_answers_end_before_stop_texts(make_speaker: MakeSpeaker) -> None:
    plain = answer(make_speaker(), GREEDY, 3)
    mark = plain[0].text[4:7]
    replies = answer(make_speaker(), GREEDY.model_copy(update={"stop": (mark,)}), 3)
    assert replies[0].text == plain[0].text[: plain[0].text.index(mark)]
    assert replies[0].finish == "stop"


def test_answers_of_sentencepiece_models_end_as_at_the_terminal(tmp_path: Path) -> None:
    tokenizer, _ = load_chat_model("sentencepiece", "zephyr", tmp_path / "model")
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.4,
        eos_token_id=tokenizer.eos_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[:259] = (
            0  # no control tokens nor single bytes: the largest other score is above that
        )
    style = choose_style(tokenizer, str(tmp_path / "model"), "completion")
    speaker = Speaker(model, tokenizer, style, context_length=256)
    reply = GREEDY.model_copy(update={"stop": (" ",)})
    found = answer(speaker, reply, 8)
    for number, one in enumerate(QUESTIONS):
        stream = speaker.stream(one.turns, reply, noise_seed=0)
        list(stream)
        assert facts(found[number]) == facts(stream.reply)
    # SentencePiece drops the space of an answer that is decoded alone.
    assert any((one.text, one.finish, one.new_tokens) == ("", "stop", 1) for one in found.values())


def test_the_guard_keeps_one_copy_of_what_is_repeated_and_can_be_switched_off(
    tiny_speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = answer(tiny_speaker, GREEDY, 3)
    monkeypatch.setattr(answering, "find_loop", lambda new_ids: 5 if len(new_ids) == 9 else None)
    guarded = answer(tiny_speaker, GREEDY, 3)
    assert (guarded[0].finish, guarded[0].new_tokens) == ("repetition", 9)
    assert plain[0].text.startswith(guarded[0].text)
    assert len(guarded[0].text) < len(plain[0].text)
    assert answer(tiny_speaker, GREEDY.model_copy(update={"repetition_guard": False}), 3) == plain


def test_a_wave_of_which_a_part_is_answered_is_answered_whole_and_the_rest_told(
    tiny_speaker: Speaker,
) -> None:
    given = encode_questions(tiny_speaker, QUESTIONS, SAMPLED, 0)
    assert [len(wave) for wave in plan_waves(given, 1)] == [4, 4]
    whole = answer(tiny_speaker, SAMPLED, 1)
    finished = {one.number for one in plan_waves(given, 1)[0]} | {plan_waves(given, 1)[1][0].number}
    rest = dict(answer_questions(tiny_speaker, given, SAMPLED, batch_size=1, finished=finished))
    assert rest == {number: reply for number, reply in whole.items() if number not in finished}


def test_questions_that_do_not_fit_are_refused_together_by_id(make_speaker: MakeSpeaker) -> None:
    speaker = make_speaker(context_length=64)
    long = [LookedUp(FileQuestion(name, "iron " * 200), "iron " * 200) for name in ("long", "longer")]
    with pytest.raises(DataError) as error:
        encode_questions(speaker, [*long, QUESTIONS[1]], GREEDY, 0)
    lines = error.value.message.splitlines()
    assert lines[0] == "2 questions cannot be asked:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["id 'long'", "id 'longer'"]
    assert "--context-length" in error.value.hint


def test_long_conversations_lose_whole_turns(make_speaker: MakeSpeaker) -> None:
    turns = (("user", "Iron? " * 30), ("assistant", "Yes."), ("user", "Tin?"), ("assistant", "Yes."))
    one = LookedUp(FileQuestion("talk", "Zinc?", turns), "Zinc?")
    (given,) = encode_questions(make_speaker(context_length=128), [one], GREEDY, 0)
    assert given.trimmed.dropped_turns in (2, 4)
    assert given.trimmed.turns[-1] == ("user", "Zinc?")


def test_passages_go_into_the_prompt_of_the_last_turn() -> None:
    shelf = Shelf()
    talk, nothing = look_up([QUESTIONS[-1].question, FileQuestion("n", "Is nothing there?")], shelf, 2)
    assert shelf.asked == [("And zinc?", 2), ("Is nothing there?", 2)]
    assert [passage.text for passage in talk.passages] == ["part 0", "part 1"]
    assert "And zinc?" in talk.prompt
    assert "part 1" in talk.prompt
    assert talk.turns[:-1] == list(QUESTIONS[-1].question.turns)
    assert (nothing.prompt, nothing.passages) == ("Is nothing there?", ())
