"""However a reply ends, what stands is kept and the conversation goes on."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from speaking import GREEDY, QUESTIONS, MakeSpeaker, ask, generate, script, talk
from tiny_llama import TinyModel

from biomedllama_cli.chat.speaker import TokenChoice
from biomedllama_cli.errors import ModelError, SettingsError
from biomedllama_cli.settings.chat import ReplySettings


def test_a_reply_ends_where_the_model_ends_it(make_speaker: MakeSpeaker, tiny_chat_model: TinyModel) -> None:
    turns = [("user", QUESTIONS[0])]
    whole = make_speaker()
    list(whole.stream(turns, GREEDY, noise_seed=1))
    said = whole.memory.ids[-11:]
    own = tiny_chat_model.model.generation_config.eos_token_id
    try:
        tiny_chat_model.model.generation_config.eos_token_id = [1, said[5]]
        reply = ask(make_speaker(), turns)
    finally:
        tiny_chat_model.model.generation_config.eos_token_id = own
    length = said.index(said[5])
    assert (reply.finish, reply.new_tokens) == ("end", length + 1)
    assert reply.text == whole.tokenizer.decode(said[:length])


def test_a_stop_text_ends_a_reply_and_what_stands_before_it_is_not_read_again(
    make_speaker: MakeSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = make_speaker()
    turns = [("user", QUESTIONS[0])]
    answer = speaker.tokenizer.encode("A drug.")
    script(monkeypatch, [*answer, *speaker.tokenizer.encode("\n\n### Instruction:\nAnd?")])
    reply = ask(speaker, turns, GREEDY.model_copy(update={"max_new_tokens": 50}))
    assert (reply.text, reply.finish) == ("A drug.", "stop")
    monkeypatch.undo()
    turns += [("assistant", reply.text), ("user", QUESTIONS[1])]
    again = ask(speaker, turns)
    assert again.reused_tokens == reply.prompt_tokens + len(answer)
    assert again.text == generate(speaker, speaker.memory.ids[: again.prompt_tokens])
    script(monkeypatch, speaker.tokenizer.encode("yes and no"))
    own = ask(speaker, turns, GREEDY.model_copy(update={"stop": (" and",)}))
    assert (own.text, own.finish) == ("yes", "stop")


def test_a_reply_that_begins_with_the_next_question_is_empty(
    make_speaker: MakeSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = make_speaker("instructed")
    script(monkeypatch, speaker.tokenizer.encode("### Instruction:\nWhat is next?\n\n"))
    reply = ask(speaker, [("user", QUESTIONS[0])], GREEDY.model_copy(update={"max_new_tokens": 50}))
    assert (reply.text, reply.finish) == ("", "stop")


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_told(temperature: float, score: float) -> None:
    choice = TokenChoice(ReplySettings(temperature=temperature, repetition_penalty=1.5), 1)
    scores = torch.tensor([[float("-inf"), 2.0, -1.0]])
    assert choice.choose(scores) in (1, 2)
    scores[0, 2] = score
    with pytest.raises(ModelError, match="no numbers") as error:
        choice.choose(scores)
    assert "--dtype" in error.value.hint


def test_a_loop_ends_a_reply_and_is_kept_once(
    make_speaker: MakeSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = make_speaker(context_length=512)
    settings = ReplySettings(max_new_tokens=200, temperature=0)
    sentence = "The heart beats. "
    ids = speaker.tokenizer.encode(sentence)
    assert len(set(ids)) >= 8
    script(monkeypatch, ids * 20)
    stream = speaker.stream([("user", QUESTIONS[0])], settings, noise_seed=1)
    shown = "".join(stream)
    assert stream.reply.finish == "repetition"
    assert stream.reply.text == sentence
    assert 64 <= stream.reply.new_tokens < 64 + len(ids)
    assert shown.startswith(sentence * 3)
    script(monkeypatch, ids * 20)
    free = ask(speaker, [("user", QUESTIONS[0])], settings.model_copy(update={"repetition_guard": False}))
    assert (free.finish, free.new_tokens) == ("length", 200)


def test_a_full_context_ends_a_reply_and_old_turns_make_room(make_speaker: MakeSpeaker) -> None:
    speaker = make_speaker(context_length=120)
    dropped = [reply.dropped_turns for _, reply in talk(speaker, QUESTIONS * 2)]
    assert dropped == sorted(dropped)
    assert dropped[0] == 0
    assert dropped[-1] > 0
    prompt_tokens = ask(speaker, [("user", QUESTIONS[0])]).prompt_tokens
    settings = GREEDY.model_copy(update={"max_new_tokens": 100})
    reply = ask(make_speaker(context_length=prompt_tokens + 70), [("user", QUESTIONS[0])], settings)
    assert (reply.finish, reply.new_tokens) == ("context", 70)
    with pytest.raises(SettingsError, match="tokens long"):
        speaker.stream([("user", "Why? " * 100)], GREEDY, noise_seed=1)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_stopped_reply_keeps_its_part_and_the_conversation_goes_on(
    after: int, make_speaker: MakeSpeaker
) -> None:
    speaker = make_speaker()
    turns = [("user", QUESTIONS[0])]
    whole = ask(make_speaker(), turns).text
    stream = speaker.stream(turns, GREEDY, noise_seed=1)
    assert stream.reply.finish == "interrupted"
    pieces = [next(stream) for _ in range(after)]
    stream.stop()
    pieces += list(stream)
    reply = stream.reply
    assert (reply.text, reply.finish) == ("".join(pieces), "interrupted")
    assert reply.new_tokens == after
    assert whole.startswith(reply.text)
    turns += [("assistant", reply.text), ("user", QUESTIONS[1])]
    again = ask(speaker, turns)
    assert again.text == generate(speaker, speaker.memory.ids[: again.prompt_tokens])


def test_a_reply_may_be_stopped_while_its_prompt_is_read(
    make_speaker: MakeSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.chat.memory.CHUNK_TOKENS", 32)
    speaker = make_speaker()
    turns = [("user", "What is aspirin? " * 10)]
    stream = speaker.stream(turns, GREEDY, noise_seed=1)
    handle = speaker.model.register_forward_hook(lambda *_: stream.stop())
    try:
        assert list(stream) == []
    finally:
        handle.remove()
    assert (stream.reply.text, stream.reply.finish, stream.reply.new_tokens) == ("", "interrupted", 0)
    assert speaker.memory.tokens_computed == 32
    again = ask(speaker, turns)
    assert again.reused_tokens == 32
    assert again.text == generate(speaker, stream.prompt_ids)


def test_a_signal_handler_may_stop_a_reply(make_speaker: MakeSpeaker) -> None:
    stream = make_speaker().stream([("user", QUESTIONS[0])], GREEDY, noise_seed=1)
    before = signal.signal(signal.SIGUSR1, lambda *_: stream.stop())
    try:
        pieces = [next(stream)]
        signal.raise_signal(signal.SIGUSR1)
        pieces += list(stream)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert stream.reply.finish == "interrupted"
    assert stream.reply.text == "".join(pieces)


@pytest.mark.parametrize("breaks_at", [2, 3, 30])
def test_ctrl_c_inside_a_layer_spoils_nothing(
    breaks_at: int, make_speaker: MakeSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = make_speaker()
    (turns, first), *_ = talk(speaker, QUESTIONS[:1])
    turns = [*turns, ("assistant", first.text), ("user", QUESTIONS[1])]
    layer = speaker.model.model.layers[1]
    forward = type(layer.mlp).forward
    calls = 0

    def break_off(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == breaks_at:
            raise KeyboardInterrupt
        return forward(self, *args)

    monkeypatch.setattr(type(layer.mlp), "forward", break_off)
    stream = speaker.stream(turns, GREEDY.model_copy(update={"max_new_tokens": 40}), noise_seed=1)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    monkeypatch.undo()
    reply = stream.reply
    assert reply.finish == "interrupted"
    assert reply.new_tokens == (breaks_at - 1) // 2  # two layers a token
    again = ask(speaker, turns)
    # What was read whole is still known: the first exchange, or the prompt too.
    known = again.prompt_tokens if breaks_at > 2 else first.prompt_tokens + first.new_tokens
    assert again.reused_tokens == known - 1
    assert again.text == generate(speaker, stream.prompt_ids)
    assert again.text[: len(reply.text)] == reply.text[: len(again.text)]


def test_a_reply_that_another_one_overtook_goes_no_further(make_speaker: MakeSpeaker) -> None:
    speaker = make_speaker()
    first = speaker.stream([("user", QUESTIONS[0])], GREEDY, noise_seed=1)
    began = next(first)
    second = ask(speaker, [("user", QUESTIONS[1])])
    assert list(first) == []
    assert (first.reply.text, first.reply.finish) == (began, "interrupted")
    assert second.text == generate(speaker, speaker.memory.ids[: second.prompt_tokens])
