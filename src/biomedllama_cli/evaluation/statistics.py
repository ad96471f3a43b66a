"""Metrics from log-likelihoods, each with its 95 % interval; pure functions of numbers."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 2000
LARGEST_EXPONENT = math.log(sys.float_info.max)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of `correct` out of `n`.

    >>> low, high = wilson_interval(50, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    interval = binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def choose_option(log_likelihoods: Sequence[float]) -> int:
    """Return the index of the largest value; the first of equals, as in the harness.

    >>> choose_option([-3.0, -1.0, -1.0])
    1
    """
    return int(np.argmax(log_likelihoods))


def normalize_by_length(log_likelihoods: Sequence[float], options: Sequence[str]) -> list[float]:
    """Return each log-likelihood divided by its option's length (in characters, the prefix not counted).

    >>> normalize_by_length([-4.0, -6.0], ["ab", "abcdef"])
    [-2.0, -1.0]
    """
    return [value / max(len(option), 1) for value, option in zip(log_likelihoods, options, strict=True)]


def count_words(text: str) -> int:
    """Return the number of words as the protocol counts them: pieces between runs of whitespace.

    >>> count_words("two  words"), count_words("two words ")
    (2, 3)
    """
    return len(re.split(r"\s+", text))


def perplexity(log_likelihood: float, units: int) -> float:
    """Return exp(-log-likelihood / units), with units in words, bytes or tokens.

    Text without spaces (Chinese, a sequence of bases) is one long word, whose perplexity no float holds: infinity.

    >>> round(perplexity(-math.log(8.0) * 5, 5), 6)
    8.0
    >>> perplexity(-2000.0, 1)
    inf
    """
    rate = -log_likelihood / units
    return math.exp(rate) if rate < LARGEST_EXPONENT else math.inf


def bits_per_byte(log_likelihood: float, utf8_bytes: int) -> float:
    """Return the bits a model spends per UTF-8 byte.

    >>> bits_per_byte(-math.log(2.0) * 6, 4)
    1.5
    """
    return -log_likelihood / (utf8_bytes * math.log(2.0))


def bootstrap_rate_interval(
    log_likelihoods: Sequence[float], units: Sequence[int], seed: int
) -> tuple[float, float] | None:
    """Return a 95 % bootstrap interval of (sum of negative log-likelihoods) / (sum of units).

    Whole documents are resampled, since the tokens of one are not independent. Monotone functions of the
    rate (perplexity, bits per byte) have the interval of the transformed ends.

    Args:
        log_likelihoods: one per document.
        units: words, bytes or tokens of each document.
        seed: of the resampling.

    Returns:
        The 2.5 % and 97.5 % quantiles in nats per unit, or None for fewer than two documents.

    >>> bootstrap_rate_interval([-2.0, -2.0], [1, 1], seed=0)
    (2.0, 2.0)
    """
    if len(log_likelihoods) < 2:
        return None
    generator = np.random.default_rng(seed)
    losses, weights = -np.asarray(log_likelihoods, dtype=np.float64), np.asarray(units, dtype=np.float64)
    # How often each document is drawn is multinomial: counts take less room than lists of indices.
    count = len(losses)
    rates = np.empty(BOOTSTRAP_RESAMPLES)
    for resample in range(BOOTSTRAP_RESAMPLES):
        drawn = generator.multinomial(count, np.full(count, 1.0 / count))
        rates[resample] = (drawn @ losses) / (drawn @ weights)
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def macro_f1(answers: Sequence[int], predictions: Sequence[int], classes: int) -> float:
    """Return the unweighted mean of each class's F1; a class without answers and predictions counts 0.

    >>> macro_f1([0, 0, 1, 1], [0, 0, 1, 0], classes=2)
    0.7333333333333334
    """
    scores = []
    for label in range(classes):
        pairs = list(zip(answers, predictions, strict=True))
        hits = sum(answer == label and prediction == label for answer, prediction in pairs)
        involved = sum((answer == label) + (prediction == label) for answer, prediction in pairs)
        scores.append(2 * hits / involved if involved else 0.0)
    return math.fsum(scores) / classes
