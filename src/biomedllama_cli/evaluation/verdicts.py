"""The verdict on one published value: the same count, explained by the precision, or neither.

A verdict never rests on an interval: both runs score the same items, so a count is either the same, or explained
by items whose options are so close that the precision decides between them, or the protocol or the weights differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from biomedllama_cli.evaluation.cells import Accuracy, QuestionCell, TextCell
from biomedllama_cli.evaluation.published import PublishedCell, half_of_last_digit
from biomedllama_cli.evaluation.reproduction_report import Candidate, Verdict
from biomedllama_cli.evaluation.statistics import choose_option, normalize_by_length

Samples = Sequence[Mapping[str, Any]]

DIFFERENT: Verdict = "different protocol or weights"
LIKELIHOOD_METRICS = ("acc", "acc_norm")
"""Scores that a question's log-likelihoods decide, so that a margin between options exists."""


@dataclass(frozen=True)
class Evidence:
    """What may explain a difference.

    Attributes:
        samples: the cell's records; None where they are not at hand.
        precision_error: largest difference of a log-likelihood scored again (in nats); None where not measured.
        departures: known differences from the published protocol.
    """

    samples: Samples | None
    precision_error: float | None
    departures: tuple[str, ...] = ()


def judge_count(published: PublishedCell, cell: QuestionCell, metric: str, evidence: Evidence) -> Candidate:
    """Hold a score's number of right answers against a published value."""
    accuracy = cell.metrics.scores[metric]
    facts: dict[str, Any] = {
        "metric": metric,
        "correct": accuracy.correct,
        "n": accuracy.n,
        "value": accuracy.value,
        "interval": accuracy.interval,
    }
    missing = _missing_questions(published, cell, accuracy)
    if missing:
        return Candidate(verdict="incomplete", reason=missing, **facts)
    if not published.counts:
        facts["difference"] = accuracy.value - float(published.value)
        return Candidate(verdict="not comparable", reason=_compare_mean(published, accuracy), **facts)
    difference = min((accuracy.correct - count for count in published.counts), key=abs)
    facts["difference"] = float(difference)
    error = evidence.precision_error
    if metric in LIKELIHOOD_METRICS and evidence.samples is not None and error is not None:
        facts["near_ties"] = find_near_ties(evidence.samples, metric, error)
    if difference == 0:
        return Candidate(verdict="identical", reason="the same count", **facts)
    off = f"{abs(difference)} {'question' if abs(difference) == 1 else 'questions'} off"
    blocked = _why_not_numerical(metric, evidence)
    if blocked:
        return Candidate(verdict=DIFFERENT, reason=f"{off}; numerical cannot be given: {blocked}", **facts)
    near = len(facts["near_ties"])
    reason = (
        f"{off}, and {near or 'no'} margin{'' if near == 1 else 's'} within what the precision error can turn"
    )
    return Candidate(verdict="numerical" if abs(difference) <= near else DIFFERENT, reason=reason, **facts)


def judge_perplexity(published: PublishedCell, cell: TextCell, evidence: Evidence) -> Candidate:
    """Hold a word perplexity against a published value."""
    metrics = cell.metrics
    obtained = metrics.word_perplexity.value
    facts: dict[str, Any] = {
        "metric": "word_perplexity",
        "n": metrics.n,
        "value": obtained,
        "interval": metrics.word_perplexity.interval,
        "difference": obtained - float(published.value),
    }
    if metrics.n != metrics.n_all:
        reason = f"{metrics.n} of {metrics.n_all} documents were scored"
        return Candidate(verdict="incomplete", reason=reason, **facts)
    half_unit = half_of_last_digit(published.value)
    error = evidence.precision_error
    if evidence.samples is not None and error is not None:
        windows = sum(math.ceil(sample["tokens"] / cell.context_length) for sample in evidence.samples)
        facts["tolerance"] = perplexity_tolerance(obtained, error, windows=windows, words=metrics.words)
    if math.isfinite(obtained) and abs(Decimal(obtained) - Decimal(published.value)) <= half_unit:
        return Candidate(verdict="identical", reason="rounds to the printed digits", **facts)
    off = f"{facts['difference']:+.4f} off"
    blocked = _why_not_numerical("word_perplexity", evidence)
    if blocked:
        return Candidate(verdict=DIFFERENT, reason=f"{off}; numerical cannot be given: {blocked}", **facts)
    explained = facts["tolerance"]
    reason = f"{off}, and the precision error explains {explained:.4f}"
    close = abs(facts["difference"]) <= explained + float(half_unit)
    return Candidate(verdict="numerical" if close else DIFFERENT, reason=reason, **facts)


def find_near_ties(samples: Samples, metric: str, error: float) -> tuple[str, ...]:
    """Return the ids of questions whose best option an error of this size in every log-likelihood may change.

    That is: another option is closer to the best than the sum of both options' errors, 2 * error for `acc`; for
    `acc_norm` an option's error is divided by its length, as its log-likelihood is.

    Args:
        samples: records of questions.
        metric: `acc` or `acc_norm`.
        error: of one option's log-likelihood (in nats).

    >>> sample = {"id": "q1", "log_likelihoods": [-3.0, -3.1], "options": ["ab", "cd"]}
    >>> find_near_ties([sample], "acc", 0.06), find_near_ties([sample], "acc", 0.04)
    (('q1',), ())
    """
    near = []
    for sample in samples:
        scores, options = list(sample["log_likelihoods"]), sample["options"]
        errors = [error] * len(scores)
        if metric == "acc_norm":
            scores, errors = normalize_by_length(scores, options), normalize_by_length(errors, options)
        best = choose_option(scores)
        rivals = [index for index in range(len(scores)) if index != best]
        if any(scores[best] - scores[index] < errors[best] + errors[index] for index in rivals):
            near.append(str(sample["id"]))
    return tuple(near)


def perplexity_tolerance(perplexity: float, error: float, *, windows: int, words: int) -> float:
    """Return by how much a word perplexity may move when every window's log-likelihood is off by `error` nats.

    ln(perplexity) = -(sum of log-likelihoods) / words, so windows that are all off to the same side move it by
    error * windows / words. A window is one scored sequence, as an option is; `error` is the largest one measured.

    >>> round(perplexity_tolerance(20.0, 0.01, windows=1000, words=200_000), 6)
    0.001
    """
    return perplexity * math.expm1(error * windows / words)


def _missing_questions(published: PublishedCell, cell: QuestionCell, accuracy: Accuracy) -> str:
    if cell.metrics.n < cell.metrics.n_all:
        return f"{cell.metrics.n} of {cell.metrics.n_all} questions were scored"
    if accuracy.n != published.n:
        return f"{accuracy.n} questions were scored, and the published value is over {published.n}"
    return ""


def _compare_mean(published: PublishedCell, accuracy: Accuracy) -> str:
    reason = f"the published {published.printed} is no count of {published.n}"
    if published.plus_minus is None:
        return reason
    inside = abs(accuracy.value - float(published.value)) <= float(published.plus_minus)
    return f"{reason}; the obtained {accuracy.value:.4f} lies {'inside' if inside else 'outside'} its unexplained ±"


def _why_not_numerical(metric: str, evidence: Evidence) -> str:
    if evidence.departures:
        return "the protocol departs from the published one"
    if metric not in (*LIKELIHOOD_METRICS, "word_perplexity"):
        return "generated answers have no margin to hold a precision error against"
    if evidence.precision_error is None:
        return "no precision error was measured"
    if evidence.samples is None:
        return "the samples are not at hand"
    return ""
