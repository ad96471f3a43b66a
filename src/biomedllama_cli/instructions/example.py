"""What a model is tuned on: conversations in which some turns are learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's text.

    Attributes:
        role: who speaks.
        text: what is said, without anything a template adds.
        cuttable: (first, end) of the characters that may lose their left end where the whole is too long: an abstract.
        learnt: whether a turn of the assistant may be a target; others are only read.
    """

    role: Role
    text: str
    cuttable: tuple[int, int] | None = None
    learnt: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation to learn from; the assistant's turns are its targets.

    Attributes:
        id: of the record in its source.
        source: name of the source: medqa, alpaca-cleaned, ...
        turns: a system turn or none, then user and assistant in turn; the last is the assistant's.
        exact: the user's text is the whole prompt, its answer cue included, and the assistant's text follows it to the
            character (` (A) iron`): a template of plain text adds nothing but EOS. Otherwise the texts are bare.
    """

    id: str
    source: str
    turns: tuple[Turn, ...]
    exact: bool = False


def make_pair(
    id: str, source: str, prompt: str, answer: str, *, exact: bool, cuttable: tuple[int, int] | None = None
) -> Example:
    """Return an example of one question and its answer.

    >>> make_pair("1", "mine", "Is water wet?", "Yes", exact=False).turns[1].text
    'Yes'
    """
    return Example(id, source, (Turn("user", prompt, cuttable), Turn("assistant", answer)), exact)
