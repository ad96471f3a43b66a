"""What is said of an exam's answer, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from biomedllama_cli.evaluation.results import SMALLEST_MARGIN
from biomedllama_cli.evaluation.scores import choose_likeliest, margin
from biomedllama_cli.tasks.options import LETTERS

if TYPE_CHECKING:
    from biomedllama_cli.chat.exam_answer import ExamAnswer

_EVALUATE_CUDA_DTYPE = "float16"


def tell_verdict(answer: ExamAnswer) -> str:
    """Return what the profile's own scores choose, and what is right where that is known."""
    parts = []
    for place, name in enumerate(answer.own_scores):
        choice = answer.chosen[name]
        said = f" ({answer.probabilities[choice]:.2f})" if place == 0 else ""
        parts.append(f"by {name}: {LETTERS[choice]}{said}")
    right = answer.question.answer_index
    told = "" if right is None else f" (right: {LETTERS[right]})"
    return f"chosen {'; '.join(parts)}{told}"


def list_notes(answer: ExamAnswer) -> list[str]:
    """Return how it was asked and what to mind."""
    return [*_tell_asked(answer), *_tell_doubts(answer), *answer.question.remarks]


def _tell_asked(answer: ExamAnswer) -> Iterator[str]:
    yield f"Profile {answer.profile}: {answer.summary}."
    bos = "after BOS" if answer.bos else "without BOS"
    yield (
        f"Option A is scored as {answer.own.continuations[0]!r} after the prompt, which is plain text {bos}, as where "
        "`evaluate` scores options: no chat template, no conversation, no examples."
    )
    if answer.generates:
        name = answer.profile.partition("/")[0]
        yield (
            f"`evaluate --profile {name}` also lets the model write an answer after this prompt, and its headline "
            "score is read from that; these are the likelihoods it gives beside it (option_likelihood)."
        )
    likeliest = choose_likeliest(answer.without_question)
    share = answer.rows()[likeliest]["without_question"]
    yield f"Without the question the model would choose {LETTERS[likeliest]} ({share:.2f})."


def _tell_doubts(answer: ExamAnswer) -> Iterator[str]:
    if answer.truncated:
        own = "the prompt" if answer.own.truncated else "the prompt of another form"
        yield (
            f"An input was longer than the context of {answer.context_length:,} tokens: {own} lost its left end, as "
            f"in `evaluate --context-length {answer.context_length}`."
        )
    if margin(answer.own.likelihoods) < SMALLEST_MARGIN:
        yield (
            f"The two best options are closer than {SMALLEST_MARGIN:g} nats: another precision may change the choice."
        )
    if answer.device == "cuda" and answer.dtype != _EVALUATE_CUDA_DTYPE:
        yield (
            f"Computed in {answer.dtype}; on CUDA `evaluate` computes in float16 unless it is told otherwise (--dtype)."
        )
