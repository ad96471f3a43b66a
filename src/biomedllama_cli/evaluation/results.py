"""From log-likelihoods to the numbers that are reported, and the samples they came from.

Which numbers there are follows from the variants that were asked (see `variants`): their names say what each is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from biomedllama_cli.evaluation import statistics
from biomedllama_cli.evaluation.baselines import majority_accuracy, random_accuracy
from biomedllama_cli.evaluation.cells import Accuracy, Estimate, QuestionMetrics, TextMetrics
from biomedllama_cli.evaluation.jobs import Asked
from biomedllama_cli.evaluation.profiles import Profile
from biomedllama_cli.evaluation.scores import (
    Scored,
    choose_by_likelihood,
    choose_likeliest,
    margin,
    measure_permutations,
    own_likelihoods,
)
from biomedllama_cli.evaluation.variants import CONTEXT_FREE
from biomedllama_cli.tasks.prompts import kind_of
from biomedllama_cli.tasks.question import Document, Question

SMALLEST_MARGIN = 2e-3
"""Two best options closer than this (in nats) may change places with the precision or the batch."""

Predictions = Sequence[int | None]
"""Index of the chosen option per question; None where a generated answer names none."""


def build_metrics(
    profile: Profile,
    asked: Sequence[Asked],
    scored: Sequence[Scored],
    *,
    n_all: int,
    generated: Mapping[str, Predictions] | None = None,
) -> tuple[QuestionMetrics, list[dict[str, Any]]]:
    """Return the metrics of a task under a profile and one sample record per question.

    Args:
        profile: that asked.
        asked: the questions in order, with all their variants.
        scored: what the model gave to them, in the same order.
        n_all: questions of the whole task, before any limit.
        generated: answers read from generated text, by score name (`exact_match`, `parsed`, `majority_vote`). The
            profile's headline must be among them where it generates.
    """
    questions = [one.question for one in asked]
    answers = [question.answer_index for question in questions]
    chosen: dict[str, Predictions] = {**(generated or {}), **choose_by_likelihood(profile, asked, scored)}
    predictions = chosen[profile.headline_score]
    labels = _find_labels(profile, questions)
    passages = [_hash_passage(question) for question in questions]
    groups = [_name_groups(question, labels) for question in questions]
    own = [own_likelihoods(profile, one, row) for one, row in zip(asked, scored, strict=True)]
    parsed = chosen.get("parsed")
    metrics = QuestionMetrics(
        n=len(asked),
        n_all=n_all,
        headline=profile.headline_score,
        scores={name: _measure(answers, indices, passages) for name, indices in chosen.items()},
        random=random_accuracy([len(question.options) for question in questions]),
        majority=majority_accuracy(answers),
        context_free=_measure(answers, [choose_likeliest(row[CONTEXT_FREE]) for row in scored], passages),
        macro_f1=None if labels is None else _measure_f1(answers, predictions, len(labels)),
        predicted_labels=_count_labels(labels, predictions),
        answer_labels=_count_labels(labels, answers),
        groups=_measure_groups(groups, answers, predictions, passages),
        permutations=measure_permutations(profile, asked, scored),
        unparsed=None if parsed is None else sum(index is None for index in parsed),
        truncated_inputs=sum(one.truncated for row in scored for values in row.values() for one in values),
        smallest_margin_items=tuple(
            question.id for question, row in zip(questions, own, strict=True) if margin(row) < SMALLEST_MARGIN
        ),
    )
    samples = [
        {
            **_describe_asked(profile, one),
            "log_likelihoods": [likelihood.value for likelihood in own[index]],
            "prediction": predictions[index],
            "correct": predictions[index] == answers[index],
            "tokens": [likelihood.tokens for likelihood in own[index]],
            "scores": {name: indices[index] for name, indices in chosen.items()},
            "groups": groups[index],
            "cluster": passages[index],
        }
        for index, one in enumerate(asked)
    ]
    return metrics, samples


def build_text_metrics(
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
        text_sha256=hash_texts(documents),
    )
    samples = [
        {"id": document.id, "log_likelihood": value, "words": word, "tokens": tokens, "utf8_bytes": size}
        for document, value, word, tokens, size in zip(
            documents, log_likelihoods, words, token_counts, utf8_bytes, strict=True
        )
    ]
    return metrics, samples


def hash_texts(documents: Sequence[Document]) -> str:
    """Return the SHA-256 over the texts in order, each after its length in bytes, as hexadecimal."""
    digest = hashlib.sha256()
    for document in documents:
        content = document.text.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _describe_asked(profile: Profile, asked: Asked) -> dict[str, Any]:
    """Return the part of a sample record that does not depend on the model."""
    question = asked.question
    return {
        "id": question.id,
        "question": question.question,
        "options": list(profile.prompt_for(question).options_of(question)),
        "answer_index": question.answer_index,
        "example_ids": [example.id for example in asked.examples],
    }


def _measure(answers: Sequence[int], predictions: Predictions, passages: Sequence[str | None]) -> Accuracy:
    """Return an accuracy whose interval knows of items about the same passage; one without has its own cluster."""
    correct = [prediction == answer for prediction, answer in zip(predictions, answers, strict=True)]
    return statistics.accuracy(correct, [passage or f"item {row}" for row, passage in enumerate(passages)])


def _measure_f1(answers: Sequence[int], predictions: Predictions, classes: int) -> float:
    # An answer that names no option is a miss of its class and counts for no other.
    return statistics.macro_f1(answers, [-1 if index is None else index for index in predictions], classes)


def _measure_groups(
    groups: Sequence[Mapping[str, str]],
    answers: Sequence[int],
    predictions: Predictions,
    passages: Sequence[str | None],
) -> dict[str, dict[str, Accuracy]]:
    """Return the accuracies by kind and value, both in alphabetical order."""
    members: dict[tuple[str, str], list[int]] = {}
    for row, group in enumerate(groups):
        for pair in group.items():
            members.setdefault(pair, []).append(row)
    measured: dict[str, dict[str, Accuracy]] = {}
    for (kind, value), rows in sorted(members.items()):
        measured.setdefault(kind, {})[value] = _measure(
            [answers[row] for row in rows],
            [predictions[row] for row in rows],
            [passages[row] for row in rows],
        )
    return measured


def _name_groups(question: Question, labels: tuple[str, ...] | None) -> dict[str, str]:
    answer = () if labels is None else (("answer", labels[question.answer_index]),)
    return dict((*question.groups, *answer))


def _find_labels(profile: Profile, questions: Sequence[Question]) -> tuple[str, ...] | None:
    """Return the labels that mean the same in every question; positions of options do not."""
    first = questions[0]
    if kind_of(first) == "options" or any(question.options != first.options for question in questions):
        return None
    return profile.prompt_for(first).options_of(first)


def _count_labels(labels: Sequence[str] | None, indices: Predictions) -> dict[str, int] | None:
    if labels is None:
        return None
    counts = Counter(indices)
    return {label: counts[index] for index, label in enumerate(labels)}


def _hash_passage(question: Question) -> str | None:
    if question.context is None:
        return None
    return hashlib.sha256(question.context.encode()).hexdigest()[:16]
