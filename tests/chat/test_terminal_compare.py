"""Second models that come and go: each has its own replies, and nobody else's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parrots import Parrot, ask, make_reply, make_session, shown
from test_terminal_commands import Desk, describe

from biomedllama_cli.chat.session import ChatSession
from biomedllama_cli.chat.transcript import load_conversation, save_conversation
from biomedllama_cli.chat.transcript_facts import collect_facts
from biomedllama_cli.errors import SettingsError, UserError


def switch(session: ChatSession, name: str) -> None:
    """Have a parrot of this name answer beside the first."""
    session.set_speakers([session.speakers[0], Parrot(name)], name)


def talk_with_two(**settings: Any) -> ChatSession:
    """Return a session that was compared with A and is now with B."""
    session = make_session("one", **settings)
    switch(session, "A")
    ask(session, "first")
    switch(session, "B")
    return session


def test_a_second_model_is_not_shown_the_replies_of_another() -> None:
    session = talk_with_two()
    ask(session, "second")
    assert [text.split()[0] for role, text in shown(session, 1) if role == "assistant"] == ["one"]
    switch(session, "A")
    ask(session, "third")
    assert [text.split()[0] for role, text in shown(session, 1) if role == "assistant"] == ["A", "one"]
    assert [each.other_source for each in session.conversation.exchanges] == ["A", "B", "A"]


def test_at_temperature_0_a_retry_is_made_where_the_second_model_is_another() -> None:
    session = talk_with_two(reply={"temperature": 0})
    asking = session.retry()
    session.finish(asking, [session.stream(asking, number).reply for number in (0, 1)])
    with pytest.raises(SettingsError, match="nothing can change"):
        session.retry()


def test_at_temperature_0_a_retry_is_made_where_the_second_reply_was_stopped() -> None:
    session = make_session("one", "two", reply={"temperature": 0})
    session.finish(session.begin("first"), [make_reply("Yes"), make_reply("N", "interrupted")])
    assert session.retry().question == "first"


def test_a_transcript_says_of_each_reply_who_gave_it(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    session = talk_with_two()
    ask(session, "second")
    session.set_speakers(session.speakers[:1])
    ask(session, "third")
    save_conversation(path, session.conversation, collect_facts(session, {"source": "one"}))
    told = json.loads(path.read_text())
    assert told["other_model"] is None
    assert [each["other_source"] for each in told["exchanges"]] == ["A", "B", ""]
    assert load_conversation(path)[0] == session.conversation


@pytest.mark.parametrize(
    ("other", "known"), [({"source": "A", "weights_sha256": "ab" * 32}, "A (weights abababab)"), (None, "")]
)
def test_a_transcript_that_knows_one_second_model_alone_is_loaded(
    tmp_path: Path, other: dict[str, Any] | None, known: str
) -> None:
    path = tmp_path / "talks.jsonl"
    session = make_session("one", "A")
    ask(session, "first")
    save_conversation(path, session.conversation, collect_facts(session, {"source": "one"}, other))
    told = json.loads(path.read_text())
    del told["exchanges"][0]["other_source"]
    path.write_text(json.dumps(told))
    (exchange,) = load_conversation(path)[0].exchanges
    assert exchange == replace(session.conversation.exchanges[0], other_source=known)


def make_desk(**services: Any) -> Desk:
    return Desk(
        make_session("one"), **{"load_other": lambda name: (Parrot(name), describe(name)), **services}
    )


def test_the_history_names_who_answered_beside_the_first() -> None:
    desk = make_desk()
    desk.run("/compare A")
    desk.ask("first")
    desk.run("/compare B")
    said = desk.run("/history")
    assert "the other model (folder/A):" in said
    assert "folder/B" not in said


@pytest.mark.parametrize("change", ["/compare B", "/compare off"])
def test_an_exam_of_models_that_changed_is_not_shown_again(change: str) -> None:
    class Answer:
        def lines(self, width: int, *, verbose: bool) -> list[str]:
            return ["chosen"]

    desk = make_desk(ask_exam=lambda text, session: [Answer()] * len(session.speakers))
    desk.run("/compare A")
    assert desk.run("/mc Which? | a | b").count("chosen") == 2
    desk.run(change)
    with pytest.raises(SettingsError, match="No question is given"):
        desk.run("/mc")


def test_the_model_before_is_let_go_before_the_next_is_loaded() -> None:
    freed: list[int] = []
    loaded: list[tuple[str, int, int]] = []

    def load(name: str) -> tuple[Parrot, Any]:
        loaded.append((name, len(desk.talk.session.speakers), len(freed)))
        return Parrot(name), describe(name)

    desk = make_desk(load_other=load, free_memory=lambda: freed.append(len(desk.talk.session.speakers)))
    desk.run("/compare A")
    assert "A is let go. Loading B ..." in desk.run("/compare B")
    desk.run("/compare off")
    assert loaded == [("A", 1, 1), ("B", 1, 2)]
    assert freed == [1, 1, 1]


def test_a_name_that_is_refused_leaves_the_comparison_as_it_is() -> None:
    def find(name: str) -> str:
        if name == "nobody":
            raise UserError("There is nobody.")
        return name

    desk = make_desk(find_other=find)
    desk.run("/compare A")
    with pytest.raises(UserError, match="nobody"):
        desk.run("/compare nobody")
    assert [model.name for model in desk.talk.models] == ["one", "A"]
    assert len(desk.talk.session.speakers) == 2


def test_a_model_that_cannot_be_loaded_leaves_the_first_alone() -> None:
    def load(name: str) -> tuple[Parrot, Any]:
        if name == "broken":
            raise RuntimeError("no memory")
        return Parrot(name), describe(name)

    desk = make_desk(load_other=load)
    desk.run("/compare A")
    with pytest.raises(RuntimeError):
        desk.run("/compare broken")
    assert [model.name for model in desk.talk.models] == ["one"]
    desk.ask("first")
    assert desk.talk.session.conversation.exchanges[-1].other is None
