"""Whatever is said comes back from the disk as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parrots import ask, make_session

from biomedllama_cli.chat.conversation import Conversation, Exchange, Passage, Reply
from biomedllama_cli.chat.transcript import load_conversation, save_conversation
from biomedllama_cli.chat.transcript_facts import TranscriptFacts, collect_facts

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SAID = TEXT.filter(lambda text: bool(text.strip()))
SECONDS = st.floats(0, 1e6)
COUNT = st.integers(0, 1 << 40)
FINISHES = st.sampled_from(["end", "stop", "length", "context", "repetition", "interrupted"])
REPLIES = st.builds(Reply, TEXT, FINISHES, COUNT, COUNT, COUNT, COUNT, SECONDS, SECONDS)
PASSAGES = st.builds(
    Passage, TEXT, TEXT, st.none() | COUNT, title=st.none() | TEXT, score=st.floats(-1e9, 1e9)
)
VALUES = st.integers() | SECONDS | TEXT | st.booleans() | st.none() | st.lists(TEXT, max_size=2).map(tuple)
EXCHANGES = st.builds(
    Exchange,
    TEXT,
    SAID,
    REPLIES,
    st.none() | REPLIES,
    st.lists(PASSAGES, max_size=2).map(tuple),
    st.integers(0, (1 << 63) - 1),
    st.dictionaries(TEXT, VALUES, max_size=2).map(lambda values: tuple(values.items())),
)
CONVERSATIONS = st.builds(Conversation, TEXT, st.lists(EXCHANGES, min_size=1, max_size=3).map(tuple)).filter(
    lambda conversation: any(role == "assistant" for role, _ in conversation.turns())
)


@settings(max_examples=60)
@given(first=CONVERSATIONS, second=CONVERSATIONS)
def test_two_conversations_side_by_side_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, first: Conversation, second: Conversation
) -> None:
    path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    facts = TranscriptFacts("first", seed=3)
    save_conversation(path, first, facts)
    assert load_conversation(path) == (first, facts)
    save_conversation(path, second, replace(facts, id="second"))
    save_conversation(path, first, facts)
    assert load_conversation(path) == (second, replace(facts, id="second"))


def test_a_session_is_saved_and_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    session = make_session("base", "tuned", style={"system": "Be brief."}, reply={"stop": ["###"]}, seed=5)
    ask(session, "first")
    session.change("temperature", "0.2")
    ask(session, "second")
    facts = collect_facts(session, {"source": "base"}, {"source": "tuned"}, "corpus")
    save_conversation(path, session.conversation, facts)
    wanted = ask(session, "third")
    again = make_session("base", "tuned", seed=5, reply={"temperature": 0.2, "stop": ["###"]})
    conversation, found = load_conversation(path)
    again.resume(conversation, conversation_id=found.id, created=found.created)
    assert found == facts
    assert ask(again, "third") == wanted
    save_conversation(path, again.conversation, collect_facts(again, {"source": "base"}))
    assert len(path.read_text().splitlines()) == 1
    assert load_conversation(path)[0] == session.conversation
