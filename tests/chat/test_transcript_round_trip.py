"""Whatever is said comes back from the disk as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.chat.conversation import Conversation, Exchange, Passage, Reply
from biomedllama_cli.chat.transcript import TranscriptFacts, load_conversation, save_conversation

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
