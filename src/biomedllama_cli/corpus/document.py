"""What flows through the stages of a corpus: documents, and reasons why others were left out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """One readable record of the input.

    Attributes:
        text: its text.
        subset: its `meta.pile_set_name`, or None.
        where: file and line, for messages.
    """

    text: str
    subset: str | None
    where: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that does not become a document.

    Attributes:
        reason: snake_case key under which the manifest counts it.
        where: file and line.
        problem: for a record that could not be read, a sentence after "FILE, line N: "; empty for one that
            was readable and is not wanted.
    """

    reason: str
    where: str
    problem: str = ""
