"""What a scorer is asked: prompts and continuations with every byte written out, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from biomedllama_cli.tasks.question import Question


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of asking a question.

    Attributes:
        name: unique within its question and profile: `text_space`, `letter_nospace`, `context_free`, ...
        context: the whole prompt.
        continuations: what is scored after it, one per option in the question's own order.
        bos: whether the tokenizer's BOS id stands first.
    """

    name: str
    context: str
    continuations: tuple[str, ...]
    bos: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its few-shot examples, and all ways in which one profile asks it."""

    question: Question
    examples: tuple[Question, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What a model gives to one continuation.

    Attributes:
        value: summed log-likelihood of its tokens (in nats).
        tokens: how many they are.
        greedy: whether each is the likeliest of the vocabulary at its place.
        truncated: whether the input lost its left end.
    """

    value: float
    tokens: int
    greedy: bool
    truncated: bool
