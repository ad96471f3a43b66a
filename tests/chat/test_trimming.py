"""Long conversations lose whole turns, seldom, and never a part of one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedllama_cli.chat.trimming import Turn, trim_turns
from biomedllama_cli.errors import SettingsError


def encode(turns: Sequence[Turn]) -> list[int]:
    """One token per character, and one before each turn."""
    return [code for role, text in turns for code in (ord(role[0]), *map(ord, text))]


def talk(sizes: Sequence[int], *, system: str = "") -> list[Turn]:
    """Return a conversation whose exchanges and last question have these sizes (in tokens)."""
    turns: list[Turn] = [("system", system)] if system else []
    for number, size in enumerate(sizes[:-1]):
        letter = chr(ord("a") + number % 26)
        turns += [("user", letter * (size // 2 - 1)), ("assistant", letter * (size - size // 2 - 1))]
    return [*turns, ("user", "?" * (sizes[-1] - 1))]


def test_a_conversation_with_room_stays_whole() -> None:
    turns = talk([100, 100, 50], system="Be brief.")
    trimmed = trim_turns(turns, encode, context_length=300, max_new_tokens=40)
    assert trimmed.turns == turns
    assert trimmed.prompt_ids == encode(turns)
    assert (trimmed.dropped_turns, trimmed.max_new_tokens) == (0, 40)
    # 260 tokens and 40 more fit to the token.
    assert trim_turns(turns, encode, context_length=300, max_new_tokens=41).dropped_turns == 2


def test_the_oldest_exchanges_go_and_the_system_turn_stays() -> None:
    turns = talk([40, 40, 40, 40, 20], system="Be brief.")
    trimmed = trim_turns(turns, encode, context_length=160, max_new_tokens=20)
    assert trimmed.dropped_turns == 4
    assert trimmed.turns == [turns[0], *turns[5:]]
    assert trimmed.prompt_ids == encode(trimmed.turns)


@given(
    sizes=st.lists(st.integers(4, 80), min_size=1, max_size=30),
    context_length=st.integers(160, 600),
    max_new_tokens=st.integers(1, 700),
    system=st.sampled_from(["", "Be brief."]),
)
def test_what_is_left_is_the_end_of_the_conversation_and_fits(
    sizes: list[int], context_length: int, max_new_tokens: int, system: str
) -> None:
    turns = talk(sizes, system=system)
    trimmed = trim_turns(turns, encode, context_length=context_length, max_new_tokens=max_new_tokens)
    head = turns[: bool(system)]
    assert trimmed.turns == [*head, *turns[len(head) + trimmed.dropped_turns :]]
    assert trimmed.dropped_turns % 2 == 0
    assert len(trimmed.prompt_ids) + trimmed.max_new_tokens <= context_length
    assert trimmed.max_new_tokens >= min(64, max_new_tokens)
    reserved = min(max_new_tokens, context_length // 2)
    if trimmed.dropped_turns:
        assert len(encode(turns)) > context_length - reserved


def test_turns_are_dropped_seldom_so_that_what_was_read_stays_of_use() -> None:
    sizes = [20] * 60
    cuts = [
        trim_turns(talk(sizes[:count]), encode, context_length=500, max_new_tokens=100).dropped_turns
        for count in range(1, 61)
    ]
    assert cuts == sorted(cuts)
    changes = sum(before != after for before, after in pairwise(cuts))
    # 60 exchanges of 20 tokens are two and a half contexts beyond the room: without steps each would drop one.
    assert changes <= 9
    assert cuts[-1] > 70


def test_a_long_question_takes_room_from_the_reply_and_then_is_refused() -> None:
    turns = talk([40, 40, 250])
    trimmed = trim_turns(turns, encode, context_length=320, max_new_tokens=128)
    assert trimmed.turns == turns[-1:]
    assert trimmed.max_new_tokens == 70
    with pytest.raises(SettingsError, match=r"250 tokens long .* context of 313 .* room for 249") as caught:
        trim_turns(turns, encode, context_length=313, max_new_tokens=128)
    assert "--context-length" in caught.value.hint
    # A reply that is to be shorter than the least needs no more room than it asks for.
    assert trim_turns(turns, encode, context_length=255, max_new_tokens=5).max_new_tokens == 5


def test_a_reply_longer_than_the_context_leaves_half_of_it_to_the_conversation() -> None:
    turns = talk([40, 40, 40])
    trimmed = trim_turns(turns, encode, context_length=256, max_new_tokens=512)
    assert trimmed.dropped_turns == 0
    assert trimmed.max_new_tokens == 256 - 120
