"""Cutting what may be cut from the left, word by word, where an example is too long."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from biomedllama_cli.instructions.example import Turn

_WORD_RE = re.compile(r"\S+")


def count_cuts(turns: Sequence[Turn]) -> int:
    r"""Return how many words may be cut.

    >>> count_cuts([Turn("user", "Abstract: one two\nQuestion", (10, 17)), Turn("assistant", "Yes")])
    2
    """
    return sum(len(_list_words(turn)) for turn in turns)


def cut_turns(turns: Sequence[Turn], words: int) -> tuple[Turn, ...]:
    r"""Return the turns without the first words of what may be cut, the earliest turn's first.

    Args:
        turns: a conversation.
        words: how many to cut, at most `count_cuts`.

    >>> cut_turns([Turn("user", "Abstract: one two\nQuestion", (10, 17))], 1)[0].text
    'Abstract: two\nQuestion'
    """
    shortened = []
    for turn in turns:
        places = _list_words(turn)
        taken = min(words, len(places))
        words -= taken
        if taken and turn.cuttable is not None:
            first, end = turn.cuttable
            after = places[taken] if taken < len(places) else end
            text = turn.text[:first] + turn.text[after:]
            shortened.append(replace(turn, text=text, cuttable=(first, first + end - after)))
        else:
            shortened.append(turn)
    return tuple(shortened)


def _list_words(turn: Turn) -> list[int]:
    """Return where the words begin that may be cut."""
    if turn.cuttable is None:
        return []
    return [match.start() for match in _WORD_RE.finditer(turn.text, *turn.cuttable)]
