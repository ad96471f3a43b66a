"""From log-likelihoods to the numbers that are reported, and the samples they came from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer

from biomedllama_cli.evaluation import statistics
from biomedllama_cli.evaluation.baselines import majority_accuracy, random_accuracy
from biomedllama_cli.tasks.prompts import PromptFormat
from biomedllama_cli.tasks.question import Document, Question

Drawn = Sequence[tuple[Question, tuple[Question, ...]]]


class Frozen(BaseModel):
    """A piece of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Accuracy(Frozen):
    """A share of right answers with its 95 % Wilson interval (fractions)."""

    value: float
    correct: int
    n: int
    interval: tuple[float, float]


def _finite_or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


Number = Annotated[float, PlainSerializer(_finite_or_null, return_type=float | None, when_used="json")]
"""A float that JSON can hold: infinity is written as null."""


class Estimate(Frozen):
    """A value with its 95 % bootstrap interval over documents (None for a single document).

    In JSON an infinite value is null: the perplexity per word of text without spaces.
    """

    value: Number
    interval: tuple[Number, Number] | None


class QuestionMetrics(Frozen):
    """What a task of questions gives.

    `acc` takes the option with the largest summed log-likelihood, `acc_norm` the largest sum divided by the
    option's length in characters; `majority` always answers the commonest label. The last four are given
    only where the labels mean the same in every question.
    """

    n: int
    n_all: int
    acc: Accuracy
    acc_norm: Accuracy | None
    random: float
    majority: float | None
    macro_f1: float | None
    predicted_labels: dict[str, int] | None
    answer_labels: dict[str, int] | None
    truncated_inputs: int


class TextMetrics(Frozen):
    """What a task of running text gives; the log-likelihood is in nats over all tokens."""

    n: int
    n_all: int
    words: int
    tokens: int
    utf8_bytes: int
    log_likelihood: float
    word_perplexity: Estimate
    byte_perplexity: Estimate
    token_perplexity: Estimate
    bits_per_byte: Estimate


def score_questions(
    drawn: Drawn, n_all: int, prompt: PromptFormat, log_likelihoods: Sequence[Sequence[float]], truncated: int
) -> tuple[QuestionMetrics, list[dict[str, Any]]]:
    """Return the metrics of scored questions and one sample record per question.

    Args:
        drawn: the scored questions in order, each with its few-shot examples.
        n_all: questions of the whole task, before any limit.
        prompt: how they were asked.
        log_likelihoods: per question, one natural logarithm per option.
        truncated: inputs that lost their left end.
    """
    answers = [item.answer_index for item, _ in drawn]
    predictions = [statistics.choose_option(values) for values in log_likelihoods]
    normalized: list[int] | None = None
    if prompt.normalizes_by_length:
        normalized = [
            statistics.choose_option(statistics.normalize_by_length(values, prompt.options_of(item)))
            for (item, _), values in zip(drawn, log_likelihoods, strict=True)
        ]
    # Positions of options mean nothing from one question to the next; fixed labels do.
    labels = prompt.scored_options
    metrics = QuestionMetrics(
        n=len(drawn),
        n_all=n_all,
        acc=_accuracy(answers, predictions),
        acc_norm=None if normalized is None else _accuracy(answers, normalized),
        random=random_accuracy([len(item.options) for item, _ in drawn]),
        majority=majority_accuracy(answers) if labels else None,
        macro_f1=statistics.macro_f1(answers, predictions, len(labels)) if labels else None,
        predicted_labels=_count_labels(labels, predictions),
        answer_labels=_count_labels(labels, answers),
        truncated_inputs=truncated,
    )
    samples = []
    for index, ((item, examples), values) in enumerate(zip(drawn, log_likelihoods, strict=True)):
        sample = {
            "id": item.id,
            "question": item.question,
            "options": list(prompt.options_of(item)),
            "answer_index": item.answer_index,
            "example_ids": [example.id for example in examples],
            "log_likelihoods": list(values),
            "prediction": predictions[index],
            "correct": predictions[index] == item.answer_index,
        }
        if normalized is not None:
            sample["prediction_norm"] = normalized[index]
            sample["correct_norm"] = normalized[index] == item.answer_index
        samples.append(sample)
    return metrics, samples


def score_documents(
    documents: Sequence[Document],
    n_all: int,
    token_counts: Sequence[int],
    log_likelihoods: Sequence[float],
    seed: int,
) -> tuple[TextMetrics, list[dict[str, Any]]]:
    """Return the metrics of scored documents and one sample record per document.

    Args:
        documents: the scored documents in order.
        n_all: documents of the whole task, before any limit.
        token_counts: tokens of each document.
        log_likelihoods: one natural logarithm per document.
        seed: of the bootstrap.
    """
    words = [statistics.count_words(document.text) for document in documents]
    utf8_bytes = [len(document.text.encode()) for document in documents]
    total = sum(log_likelihoods)

    def perplexity_per(units: Sequence[int]) -> Estimate:
        interval = statistics.bootstrap_rate_interval(log_likelihoods, units, seed)
        return Estimate(
            value=statistics.perplexity(total, sum(units)),
            interval=interval and tuple(statistics.perplexity(-rate, 1) for rate in interval),
        )

    rates = statistics.bootstrap_rate_interval(log_likelihoods, utf8_bytes, seed)
    metrics = TextMetrics(
        n=len(documents),
        n_all=n_all,
        words=sum(words),
        tokens=sum(token_counts),
        utf8_bytes=sum(utf8_bytes),
        log_likelihood=total,
        word_perplexity=perplexity_per(words),
        byte_perplexity=perplexity_per(utf8_bytes),
        token_perplexity=perplexity_per(token_counts),
        bits_per_byte=Estimate(
            value=statistics.bits_per_byte(total, sum(utf8_bytes)),
            interval=rates and tuple(statistics.bits_per_byte(-rate, 1) for rate in rates),
        ),
    )
    samples = [
        {"id": document.id, "log_likelihood": value, "words": word, "tokens": tokens, "utf8_bytes": size}
        for document, value, word, tokens, size in zip(
            documents, log_likelihoods, words, token_counts, utf8_bytes, strict=True
        )
    ]
    return metrics, samples


def _accuracy(answers: Sequence[int], predictions: Sequence[int]) -> Accuracy:
    n = len(answers)
    correct = sum(answer == prediction for answer, prediction in zip(answers, predictions, strict=True))
    return Accuracy(value=correct / n, correct=correct, n=n, interval=statistics.wilson_interval(correct, n))


def _count_labels(labels: Sequence[str] | None, indices: Sequence[int]) -> dict[str, int] | None:
    if labels is None:
        return None
    counts = Counter(indices)
    return {label: counts[index] for index, label in enumerate(labels)}
