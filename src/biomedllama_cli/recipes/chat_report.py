"""What `chat` hands back where it was asked one question, or only what it would do."""

from __future__ import annotations

from typing import Any

from biomedllama_cli.chat.conversation import Exchange, Passage, Reply
from biomedllama_cli.chat.passage_facts import describe_passage
from biomedllama_cli.chat.retrieval.prompt import cite
from biomedllama_cli.chat.terminal.sanitise import sanitise, sanitise_line
from biomedllama_cli.evaluation.cells import Frozen

FINISHES = {
    "length": "the reply was cut at its longest (--max-new-tokens)",
    "context": "the reply was cut where the context was full (--context-length)",
    "repetition": "the reply was ended where it began to repeat itself (--no-repetition-guard)",
}
"""What is told of a reply that did not end by itself."""


class Answer(Frozen):
    """What one model answered."""

    model: str
    answer: str
    finish: str
    prompt_tokens: int
    new_tokens: int
    dropped_turns: int
    seconds_to_first_token: float
    seconds: float
    tokens_per_second: float | None

    @classmethod
    def of(cls, model: str, reply: Reply) -> Answer:
        """Return the answer in a model's reply."""
        return cls(
            model=model,
            answer=reply.text,
            finish=reply.finish,
            prompt_tokens=reply.prompt_tokens,
            new_tokens=reply.new_tokens,
            dropped_turns=reply.dropped_turns,
            seconds_to_first_token=round(reply.seconds_to_first_token, 3),
            seconds=round(reply.seconds, 3),
            tokens_per_second=None if reply.tokens_per_second is None else round(reply.tokens_per_second, 2),
        )

    def lines(self) -> list[str]:
        """Return the answer as text, and nothing that the model did not say."""
        return sanitise(self.answer).splitlines()


class Source(Frozen):
    """A passage that the answer may rest on, numbered as the prompt numbers it."""

    number: int
    citation: str
    document_id: str
    pmid: int | None
    pmcid: str | None
    doi: str | None
    title: str | None
    licence: str | None
    year: int | None
    flags: tuple[str, ...]
    source: str
    score: float
    text: str

    @classmethod
    def of(cls, number: int, passage: Passage) -> Source:
        """Return a numbered passage."""
        return cls(citation=cite(passage), text=passage.text, **describe_passage(number, passage))


class ChatReport(Frozen):
    """One question and its answer.

    Attributes:
        model: facts of the model, as a transcript has them.
        other: likewise of the model it is compared with.
        style: how the conversation was written: `chat`, `instructed` or `completion`.
        seed: of the sampling, as given.
        noise_seed: of this reply.
        settings: of the reply.
        question: as asked.
        prompt: as the model was given it.
        replies: one per model.
        sources: passages in the prompt; None without a corpus.
    """

    schema_version: str = "biomedllama.chat/1"
    model: dict[str, Any]
    other: dict[str, Any] | None
    style: str
    seed: int
    noise_seed: int
    settings: dict[str, Any]
    question: str
    prompt: str
    replies: tuple[Answer, ...]
    sources: tuple[Source, ...] | None

    def lines(self) -> list[str]:
        """Return the answer, or under their names the answers of both models, and the sources."""
        if len(self.replies) == 1:
            lines = self.replies[0].lines()
        else:
            lines = []
            for reply in self.replies:
                lines += [*([""] if lines else []), f"{sanitise(reply.model)}:", *reply.lines()]
        if self.sources:
            lines += ["", "Sources:"]
            lines += [f"[{source.number}] {sanitise(source.citation)}" for source in self.sources]
        elif self.sources is not None:
            lines += ["", "No passage of the corpus holds a word of the question."]
        return lines


class ChatPlan(Frozen):
    """What would be loaded, and what would be asked.

    Attributes:
        model: as given or found.
        other: the model it is compared with.
        asks: the terminal, one question, or the questions of a file.
        corpus: whose documents are looked up.
    """

    schema_version: str = "biomedllama.chat-plan/1"
    dry_run: bool = True
    model: str
    other: str | None
    asks: str
    corpus: str | None

    def lines(self) -> list[str]:
        """Return one line each."""
        told = (("model", self.model), ("beside", self.other), ("asks", self.asks), ("corpus", self.corpus))
        lines = [f"{name:<7} {sanitise_line(text)}" for name, text in told if text is not None]
        return [*lines, "Dry run: nothing was loaded or written."]


def build_report(
    facts: tuple[dict[str, Any], ...], style: str, seed: int, exchange: Exchange, *, looked_up: bool
) -> ChatReport:
    """Return the report of one exchange.

    Args:
        facts: of the model, and of the one it is compared with.
        style: of the first model's conversation.
        seed: as given.
        exchange: question and replies.
        looked_up: whether a corpus was searched.
    """
    replies = [exchange.reply, *([] if exchange.other is None else [exchange.other])]
    return ChatReport(
        model=facts[0],
        other=facts[1] if len(facts) > 1 else None,
        style=style,
        seed=seed,
        noise_seed=exchange.noise_seed,
        settings=dict(exchange.settings),
        question=exchange.question,
        prompt=exchange.prompt,
        replies=tuple(
            Answer.of(str(fact["source"]), reply) for fact, reply in zip(facts, replies, strict=True)
        ),
        sources=tuple(Source.of(number, passage) for number, passage in enumerate(exchange.passages, 1))
        if looked_up
        else None,
    )
