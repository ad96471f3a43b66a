"""Which turns of a long conversation still have room before the reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from biomedllama_cli.errors import SettingsError

Turn = tuple[str, str]
LEAST_REPLY = 64
"""Room that a reply has to have (in tokens), unless `max_new_tokens` is less."""
_STEPS = 4
"""Turns are dropped in quarters of the room: see `trim_turns`."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The turns that are left.

    Attributes:
        turns: of the conversation, the system turn included.
        prompt_ids: of them.
        dropped_turns: how many are missing.
        max_new_tokens: room of the reply.
    """

    turns: list[Turn]
    prompt_ids: list[int]
    dropped_turns: int
    max_new_tokens: int


def trim_turns(
    turns: Sequence[Turn],
    encode: Callable[[Sequence[Turn]], list[int]],
    *,
    context_length: int,
    max_new_tokens: int,
) -> Trimmed:
    """Drop whole exchanges, oldest first, until the conversation and its reply fit the context.

    The system turn and the user's last stay. At least half of the context is the conversation's, however long the
    reply may become. Exchanges that go make room for a quarter of that at a time: what is left then begins in the
    same way for many turns, and nothing of it has to be read again. Where to cut follows from the ids alone. Those of
    a conversation that was loaded from a file are its texts encoded anew, which may be other ids than a model spelled
    its replies with: it then goes on as nearly, not exactly, as one that was had, and may be cut elsewhere.

    Args:
        turns: a system turn or none, then user and assistant in turn; the last is the user's.
        encode: gives the prompt's ids.
        context_length: of conversation and reply together (in tokens).
        max_new_tokens: longest reply (in tokens).

    Raises:
        SettingsError: the user's last turn alone leaves no room for a reply.
    """
    head = [turn for turn in turns[:1] if turn[0] == "system"]
    starts = [number for number, (role, _) in enumerate(turns) if role == "user"] or [len(head)]
    kept_ids: dict[int, list[int]] = {}

    def encode_from(start: int) -> list[int]:
        if start not in kept_ids:
            kept_ids[start] = encode([*head, *turns[start:]])
        return kept_ids[start]

    room = context_length - min(max_new_tokens, context_length // 2)
    start = len(head)
    total = len(encode_from(start))
    if total > room:
        step = max(1, room // _STEPS)
        target = total - -(-(total - room) // step) * step
        start = _find_first(starts, lambda place: len(encode_from(place)) <= target)
        if len(encode_from(start)) > target:
            start = _find_first(starts, lambda place: len(encode_from(place)) <= room)
    prompt_ids = encode_from(start)
    left = context_length - len(prompt_ids)
    least = min(LEAST_REPLY, max_new_tokens)
    if left < least:
        raise SettingsError(
            f"question: it is {len(prompt_ids):,} tokens long with what belongs to it, and the context of "
            f"{context_length:,} tokens has room for {max(0, context_length - least):,} beside a reply of {least:,}.",
            "Ask for less at once, use fewer or shorter passages (--passages, --passage-words), or raise "
            "--context-length where the model allows it.",
        )
    return Trimmed([*head, *turns[start:]], prompt_ids, start - len(head), min(max_new_tokens, left))


def _find_first(starts: Sequence[int], fits: Callable[[int], bool]) -> int:
    """Return the earliest start that fits, or the last start; later ones fit whenever earlier ones do."""
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(starts[middle]):
            high = middle
        else:
            low = middle + 1
    return starts[low]
