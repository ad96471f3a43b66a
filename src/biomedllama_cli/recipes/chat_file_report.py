"""What `chat --file` hands back: where the answers are, how they ended, and how fast they came."""

from __future__ import annotations

from pathlib import Path

from biomedllama_cli.chat.answers_file import AnswerCounts, AnswerFacts, ModelFacts, name_facts_file
from biomedllama_cli.chat.terminal.sanitise import sanitise
from biomedllama_cli.evaluation.cells import Frozen
from biomedllama_cli.wording import name_count

ENDS = {
    "end": "ended by the model",
    "stop": "ended at a stop text",
    "length": "cut at the longest reply (--max-new-tokens)",
    "context": "cut where the context was full",
    "repetition": "ended where it began to repeat itself",
}
"""Why answers ended, in the order they are told."""


class FileReport(Frozen):
    """The answers to a file of questions.

    Attributes:
        output: file of the answers.
        facts: file of what they follow from, beside it.
        questions: how many were asked.
        found: how many an earlier start had answered.
        models: facts of the model, and of the one it is compared with.
        counts: what the answers came to, per model.
        style: how conversations were written for the first model.
        seed: of the sampling, as given.
        corpus: whose passages were in the prompts.
        new_tokens: written by this start, by all models.
        seconds: likewise, without loading.
        tokens_per_second: new tokens of this start a second; None where it wrote none.
    """

    schema_version: str = "biomedllama.chat-file/1"
    output: str
    facts: str
    questions: int
    found: int
    models: tuple[ModelFacts, ...]
    counts: tuple[AnswerCounts, ...]
    style: str
    seed: int
    corpus: str | None
    new_tokens: int
    seconds: float
    tokens_per_second: float | None

    @classmethod
    def of(cls, facts: AnswerFacts, output: Path, *, found: int) -> FileReport:
        """Return the report of a file of answers.

        Args:
            facts: that stand beside it.
            output: the file.
            found: how many answers an earlier start had given; with all of them nothing was done, and no speed is told.
        """
        count = facts.questions.count
        new_tokens, seconds = (facts.new_tokens, facts.seconds) if found < count else (0, 0.0)
        return cls(
            output=str(output),
            facts=str(name_facts_file(output)),
            questions=count,
            found=found,
            models=facts.models,
            counts=facts.counts,
            style=facts.models[0].template,
            seed=facts.asked.seed,
            corpus=None if facts.corpus is None else facts.corpus.path,
            new_tokens=new_tokens,
            seconds=seconds,
            tokens_per_second=round(new_tokens / seconds, 1) if new_tokens and seconds else None,
        )

    def lines(self) -> list[str]:
        """Return what was answered, by whom, and how it ended."""
        earlier = f", {self.found:,} of them by an earlier start" if self.found else ""
        lines = [f"{name_count(self.questions, 'answer')}{earlier}: {sanitise(self.output)}"]
        for model, counts in zip(self.models, self.counts, strict=True):
            ends = [f"{counts.finish[end]:,} {said}" for end, said in ENDS.items() if end in counts.finish]
            lines.append(f"  {sanitise(model.source)} ({model.template}): {'; '.join(ends)}")
            if counts.empty:
                lines.append(
                    f"    {name_count(counts.empty, 'answer')} without a word, which `instruct` refuses"
                )
            if counts.trimmed:
                trimmed = name_count(counts.trimmed, "conversation")
                lines.append(f"    {trimmed} lost earlier turns, which had no room in the context")
        if self.corpus is not None:
            lines.append(f"  passages from {sanitise(self.corpus)}")
        if self.tokens_per_second is not None:
            tokens = name_count(self.new_tokens, "token")
            lines.append(f"  {tokens} in {self.seconds:,.1f} s ({self.tokens_per_second:,.1f} tokens/s)")
        lines.append(f"  seed {self.seed}; model hash, settings and versions: {sanitise(self.facts)}")
        return lines
