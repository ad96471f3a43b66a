"""What a conversation is: questions, the passages they came with, and replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Finish = Literal["end", "stop", "length", "context", "repetition", "interrupted"]
"""Why a reply ended: by the model, at a stop text, at `max_new_tokens`, with the context full, since it said the
same over and over, or because somebody stopped it."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document of the corpus, with what its table says of it.

    Attributes:
        text: of the passage.
        document_id: as in the corpus's document table: `pmid:123.1`, `pmcid:PMC123.1` or `blake2b:...`.
        pmid: of the document, where it has one.
        pmcid: likewise, as `PMC123`.
        doi: likewise.
        title: of the document.
        licence: as `prepare` read it.
        year: of publication.
        flags: `retracted` and whatever else `prepare` marked.
        source: name of the corpus's source.
        score: of the retrieval (BM25); larger is better.
    """

    text: str
    document_id: str
    pmid: int | None = None
    pmcid: str | None = None
    doi: str | None = None
    title: str | None = None
    licence: str | None = None
    year: int | None = None
    flags: tuple[str, ...] = ()
    source: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered, and what that took.

    Attributes:
        text: of the reply, without its stop text.
        finish: why it ended.
        prompt_tokens: the whole prompt (in tokens).
        reused_tokens: how many of them had been read before.
        new_tokens: the reply (in tokens), its end included.
        dropped_turns: turns that had no room and were left out.
        seconds_to_first_token: from the question on.
        seconds: likewise, to the end.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    reused_tokens: int
    new_tokens: int
    dropped_turns: int = 0
    seconds_to_first_token: float = 0.0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of the tokens after the first; None where there are none.

        >>> Reply("yes", "end", 10, 0, 5, seconds_to_first_token=1.0, seconds=3.0).tokens_per_second
        2.0
        """
        seconds = self.seconds - self.seconds_to_first_token
        return (self.new_tokens - 1) / seconds if self.new_tokens > 1 and seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and what was answered.

    Attributes:
        question: as it was asked.
        prompt: as the model was given it: passages included.
        reply: of the model.
        other: of the model it is compared with.
        passages: that stand in the prompt, numbered from 1.
        noise_seed: of the sampling of this reply.
        settings: what the reply was generated with (temperature, ...).
        other_source: who gave `other`, as `name_model` calls it; empty where that is not known.
    """

    question: str
    prompt: str
    reply: Reply
    other: Reply | None = None
    passages: tuple[Passage, ...] = ()
    noise_seed: int = 0
    settings: tuple[tuple[str, object], ...] = ()
    other_source: str = ""

    def find_reply(self, other_source: str | None = None) -> Reply:
        """Return the reply that a model is shown as its own.

        Args:
            other_source: the model that is compared, as `name_model` calls it; None is the first one.
        """
        if other_source is None or self.other is None or self.other_source != other_source:
            return self.reply
        return self.other


@dataclass(frozen=True, slots=True)
class Conversation:
    """A system message, where there is one, and exchanges."""

    system: str = ""
    exchanges: tuple[Exchange, ...] = ()

    def turns(self, prompt: str | None = None, *, other_source: str | None = None) -> list[tuple[str, str]]:
        """Return (role, text) of every turn, then the user's next one.

        A question that got no text for a reply is left out with it: templates refuse a turn that says nothing, or two
        of the user's in a row, and nothing could be learnt from it.

        Args:
            prompt: what the user says next.
            other_source: the model that is compared, as `name_model` calls it: the replies are its own where it gave
                any, else the first one's; None is the first one.

        >>> Conversation("Be brief.").turns("Is water wet?")
        [('system', 'Be brief.'), ('user', 'Is water wet?')]
        """
        turns = [("system", self.system)] if self.system else []
        for exchange in self.exchanges:
            reply = exchange.find_reply(other_source)
            if reply.text.strip():
                turns += [("user", exchange.prompt), ("assistant", reply.text)]
        return turns if prompt is None else [*turns, ("user", prompt)]

    def messages(self) -> list[dict[str, object]]:
        """Return the first model's turns as transcripts hold them."""
        finishes = iter([each.reply.finish for each in self.exchanges if each.reply.text.strip()])
        return [
            write_message(role, text, next(finishes) if role == "assistant" else "end")
            for role, text in self.turns()
        ]


def write_message(role: str, text: str, finish: str = "end") -> dict[str, object]:
    """Return a turn as `instruct` reads it: one that was cut short has the weight 0, so that no model learns its end.

    >>> write_message("assistant", "It is", "length")
    {'role': 'assistant', 'content': 'It is', 'weight': 0}
    """
    message: dict[str, object] = {"role": role, "content": text}
    return message if finish in ("end", "stop") else {**message, "weight": 0}


def name_model(facts: Mapping[str, Any]) -> str:
    """Return what a model is called, with the beginning of its hash to tell it from others of that name.

    Args:
        facts: `source`, and where it is known `weights_sha256`.

    >>> name_model({"source": "some/model", "weights_sha256": "0123456789abcdef"}), name_model({"source": "a"})
    ('some/model (weights 01234567)', 'a')
    """
    sha256 = facts.get("weights_sha256")
    name = str(facts.get("source") or "unknown")
    return f"{name} (weights {str(sha256)[:8]})" if sha256 else name
