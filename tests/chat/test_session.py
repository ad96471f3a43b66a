"""What a chat is at any moment, without a terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from parrots import Parrot, Shelf, ask, make_reply, make_session, shown

from biomedllama_cli.chat.conversation import Conversation
from biomedllama_cli.chat.session import ChatSession, choose_noise_seed
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.settings.chat import ChatSettings, ReplySettings, StyleSettings


def test_every_speaker_is_shown_the_system_message_what_was_said_and_the_question() -> None:
    session = make_session(style={"system": " Be brief. "})
    first = ask(session, "Is water wet?")
    ask(session, "  Why?\n")
    assert shown(session) == [
        ("system", "Be brief."),
        ("user", "Is water wet?"),
        ("assistant", first.reply.text),
        ("user", "Why?"),
    ]
    assert session.conversation.exchanges[0] == first


def test_two_models_see_their_own_replies_and_get_the_same_seed() -> None:
    session = make_session("base", "tuned")
    first = ask(session, "Is water wet?")
    ask(session, "Why?")
    assert first.other is not None
    assert first.reply.text.startswith("base 1")
    assert shown(session, 0)[1] == ("assistant", first.reply.text)
    assert shown(session, 1)[1] == ("assistant", first.other.text)
    base, tuned = session.speakers
    assert isinstance(base, Parrot)
    assert isinstance(tuned, Parrot)
    assert [seed for _, _, seed in base.asked] == [seed for _, _, seed in tuned.asked]


def test_a_model_that_joins_later_is_shown_the_first_ones_replies() -> None:
    session = make_session("base")
    first = ask(session, "Is water wet?")
    session.set_speakers([*session.speakers, Parrot("tuned")], "tuned")
    second = ask(session, "Why?")
    assert shown(session, 1)[1] == ("assistant", first.reply.text)
    assert second.other is not None


def test_the_seed_of_a_reply_follows_from_the_chats_seed_the_turn_and_the_attempt() -> None:
    session = make_session(seed=3)
    seeds = [ask(session, "Is water wet?").noise_seed, ask(session, "Is water wet?").noise_seed]
    assert seeds == [choose_noise_seed(3, 1), choose_noise_seed(3, 2)]
    again = make_session(seed=3)
    assert ask(again, "Something else").noise_seed == seeds[0]
    assert ask(make_session(seed=4), "Is water wet?").noise_seed not in seeds


def test_each_retry_has_a_seed_of_its_own_and_is_not_shown_what_it_takes_the_place_of() -> None:
    session = make_session()
    first = ask(session, "first")
    seeds = [ask(session, "second").noise_seed]
    for attempt in (1, 2):
        asking = session.retry()
        assert session.read_turns(asking) == [
            ("user", "first"),
            ("assistant", first.reply.text),
            ("user", "second"),
        ]
        assert (asking.question, asking.attempt) == ("second", attempt)
        seeds.append(session.finish(asking, [session.stream(asking).reply]).noise_seed)
    assert seeds == [choose_noise_seed(0, 2, attempt) for attempt in range(3)]
    assert len(session.conversation.exchanges) == 2


@pytest.mark.parametrize("loaded", [False, True])
def test_a_question_that_no_reply_follows_changes_nothing(loaded: bool) -> None:
    session = make_session(reply={"temperature": 0 if loaded else 1})
    exchange = ask(session, "first")
    if loaded:
        session.resume(session.conversation)
    for _ in range(2):
        session.begin("second")
        session.retry()  # and again: what was loaded may be retried at temperature 0, until it was
    assert session.conversation.exchanges == (exchange,)


def test_a_retry_after_another_seed_was_set_is_its_first_attempt() -> None:
    session = make_session()
    ask(session, "first")
    session.change("seed", "7")
    asking = session.retry()
    assert (asking.noise_seed, asking.attempt) == (choose_noise_seed(7, 1), 0)


def test_at_temperature_0_a_retry_says_that_nothing_can_change() -> None:
    session = make_session(reply={"temperature": 0})
    exchange = ask(session, "first")
    with pytest.raises(SettingsError, match="nothing can change") as refused:
        session.retry()
    assert refused.value.hint == "Type /set temperature 0.7, or ask in other words."
    assert session.conversation.exchanges == (exchange,)


@pytest.mark.parametrize("change", ["temperature", "length", "system", "passages", "interrupted", "other"])
def test_at_temperature_0_a_retry_is_made_where_something_did_change(change: str) -> None:
    session = make_session(library=Shelf(), reply={"temperature": 0})
    asking = session.begin("first")
    session.finish(asking, [make_reply("Yes", "interrupted" if change == "interrupted" else "end")])
    if change == "temperature":
        session.change("temperature", "1")
    elif change == "length":
        session.change("max_new_tokens", "7")
    elif change == "system":
        session.set_system("Be brief.")
    elif change == "passages":
        session.change("passages", "2")
    elif change == "other":
        session.set_speakers([*session.speakers, Parrot("tuned")])
    assert session.retry().question == "first"


def test_a_conversation_that_was_loaded_can_be_retried_at_temperature_0_since_the_model_may_be_another() -> (
    None
):
    before = make_session(reply={"temperature": 0})
    ask(before, "first")
    session = make_session(reply={"temperature": 0})
    session.resume(before.conversation)
    asking = session.retry()
    session.finish(asking, [session.stream(asking).reply])
    with pytest.raises(SettingsError, match="nothing can change"):
        session.retry()


def test_undo_takes_the_last_exchange_back_and_the_next_reply_is_as_if_it_never_was() -> None:
    session = make_session()
    ask(session, "first")
    second = ask(session, "second")
    assert session.undo() == second
    assert ask(session, "second") == second
    assert len(session.conversation.exchanges) == 2


@pytest.mark.parametrize(("deed", "words"), [("undo", "take back"), ("retry", "ask again")])
def test_an_empty_conversation_has_nothing_to_take_back_or_ask_again(deed: str, words: str) -> None:
    with pytest.raises(SettingsError, match=f"nothing to {words}: nothing was asked yet"):
        getattr(make_session(), deed)()


def test_a_new_conversation_keeps_the_system_message_and_is_another_for_transcripts() -> None:
    session = make_session(style={"system": "Be brief."})
    first = ask(session, "first")
    before = session.conversation_id
    session.new()
    assert session.conversation == Conversation("Be brief.")
    assert session.conversation_id != before
    assert ask(session, "first") == first


def test_another_system_message_holds_from_the_next_question_on_and_is_noted() -> None:
    session = make_session()
    first = ask(session, "first")
    session.set_system("Be brief.\n")
    second = ask(session, "second")
    assert shown(session)[0] == ("system", "Be brief.")
    assert dict(second.settings)["system"] == "Be brief."
    assert "system" not in dict(first.settings)
    session.set_system("")
    ask(session, "third")
    assert shown(session)[0] == ("user", "first")


def test_an_exchange_notes_what_its_reply_was_generated_with() -> None:
    session = make_session()
    session.change("temperature", "0.2")
    asking = session.begin("first")
    session.change("temperature", "0.9")  # while the reply comes: too late for it
    stream = session.stream(asking)
    exchange = session.finish(asking, [stream.reply])
    (speaker,) = session.speakers
    assert isinstance(speaker, Parrot)
    assert speaker.asked[0][1].temperature == 0.2
    assert dict(exchange.settings) == ReplySettings(temperature=0.2).model_dump()


def test_an_interrupted_reply_is_part_of_the_conversation() -> None:
    session = make_session()
    session.finish(session.begin("first"), [make_reply("Water is", "interrupted")])
    ask(session, "Go on.")
    assert shown(session)[:2] == [("user", "first"), ("assistant", "Water is")]


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_question_without_a_reply_is_not_shown_but_kept(text: str) -> None:
    session = make_session()
    ask(session, "first")
    session.finish(session.begin("second"), [make_reply(text, "interrupted")])
    third = ask(session, "third")
    assert [said for _, said in shown(session)][::2] == ["first", "third"]
    assert [each.question for each in session.conversation.exchanges] == ["first", "second", "third"]
    assert third.noise_seed == choose_noise_seed(0, 3)


def test_the_second_model_is_shown_an_exchange_in_which_only_the_first_was_silent() -> None:
    session = make_session("base", "tuned")
    session.finish(session.begin("first"), [make_reply(""), make_reply("Yes")])
    ask(session, "second")
    assert shown(session, 0) == [("user", "second")]
    assert shown(session, 1)[:2] == [("user", "first"), ("assistant", "Yes")]


def test_a_comparison_that_was_stopped_after_the_first_reply_is_kept() -> None:
    session = make_session("base", "tuned")
    exchange = session.finish(session.begin("first"), [make_reply("Yes", "interrupted")])
    assert exchange.other is None


def test_questions_are_looked_up_and_the_passages_kept() -> None:
    shelf = Shelf()
    session = make_session(library=shelf)
    session.change("passages", "2")
    exchange = ask(session, "Is water wet?")
    assert shelf.asked == [("Is water wet?", 2)]
    assert [passage.text for passage in exchange.passages] == ["part 0", "part 1"]
    assert "part 1" in exchange.prompt
    assert "Is water wet?" in exchange.prompt
    assert shown(session) == [("user", exchange.prompt)]
    assert exchange.question == "Is water wet?"


def test_a_question_that_nothing_is_found_for_is_asked_as_it_is() -> None:
    session = make_session(library=Shelf())
    exchange = ask(session, "What is nothing?")
    assert (exchange.prompt, exchange.passages) == ("What is nothing?", ())


@pytest.mark.parametrize(
    ("question", "problem"),
    [(" \n", "The question says nothing"), ("half \ud83d", "the question holds a lone surrogate")],
)
def test_what_is_no_question_is_refused(question: str, problem: str) -> None:
    session = make_session()
    with pytest.raises(DataError, match=problem):
        session.begin(question)
    assert session.conversation == Conversation()


def test_a_change_is_said_and_takes_effect_with_the_next_question() -> None:
    session = make_session()
    assert session.change("max-new-tokens", "64") == "max_new_tokens is now 64 (was 512)."
    assert session.begin("first").reply.max_new_tokens == 64
    assert session.change("passages", "5").endswith("and none is given.")
    assert make_session(library=Shelf()).change("passages", "5") == "passages is now 5 (was 3)."
    with pytest.raises(SettingsError, match="cannot be set during a chat"):
        session.change("dtype", "fp32")


def test_a_resumed_conversation_goes_on_as_if_it_had_never_stopped() -> None:
    session = make_session(style={"system": "Be brief."})
    for question in ("first", "second"):
        ask(session, question)
    stopped = session.conversation
    wanted = ask(session, "third")
    again = ChatSession([Parrot()], ChatSettings(style=StyleSettings(system="another")))
    again.resume(stopped, conversation_id=session.conversation_id, created=session.created)
    assert ask(again, "third") == wanted
    assert again.conversation == session.conversation
    assert (again.conversation_id, again.created) == (session.conversation_id, session.created)
    again.undo()
    assert again.retry().attempt == 1  # of the second question, whose first attempt was loaded


def test_a_conversation_without_an_identity_gets_one() -> None:
    session = make_session()
    before = session.conversation_id
    session.resume(Conversation("Be brief."))
    assert len(session.conversation_id) == 32
    assert session.conversation_id != before


def test_an_exchange_that_holds_a_seed_of_elsewhere_is_retried_with_the_first_of_this_chat() -> None:
    session = make_session()
    exchange = ask(session, "first")
    session.resume(Conversation("", (replace(exchange, noise_seed=12345),)))
    assert session.retry().attempt == 0
