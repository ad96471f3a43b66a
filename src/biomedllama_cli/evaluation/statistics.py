"""Metrics from log-likelihoods, each with its 95 % interval; pure functions of numbers."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t

from biomedllama_cli.evaluation.cells import Accuracy

CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 2000
LARGEST_EXPONENT = math.log(sys.float_info.max)


def wilson_interval(correct: float, n: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of `correct` out of `n`, which need not be whole numbers.

    >>> low, high = wilson_interval(50, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    z_squared = float(norm.ppf((1 + CONFIDENCE) / 2)) ** 2
    share = correct / n
    middle = (share + z_squared / (2 * n)) / (1 + z_squared / n)
    half = math.sqrt(z_squared * (share * (1 - share) / n + z_squared / (4 * n * n))) / (1 + z_squared / n)
    # Rounding must not push the ends of 0 or all right past the value itself.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def accuracy(correct: Sequence[bool], clusters: Sequence[str] | None = None) -> Accuracy:
    """Return the share of right answers with its 95 % Wilson interval.

    Items of one cluster (a passage several questions ask about) are right or wrong together; where some cluster
    has more than one item, the interval is Wilson's with the effective number of items (`effective_size`).

    Args:
        correct: one per item.
        clusters: the cluster of each item, or None where all are independent.

    Raises:
        ValueError: there are no items, or not one cluster per item.

    >>> accuracy([True, True, False, False]).interval == accuracy([True, True, False, False], list("abcd")).interval
    True
    >>> accuracy([True, True, False, False], list("aabb")).clusters
    2
    """
    n, right = len(correct), sum(map(bool, correct))
    if n == 0:
        raise ValueError("an accuracy needs at least one item")
    distinct = n if clusters is None else len(set(clusters))
    if clusters is not None and len(clusters) != n:
        raise ValueError(f"{n} items have {len(clusters)} clusters; it must be one each")
    if clusters is None or distinct == n:
        return Accuracy(value=right / n, correct=right, n=n, interval=wilson_interval(right, n))
    size = effective_size(correct, clusters)
    interval = wilson_interval(right / n * size, size)
    return Accuracy(value=right / n, correct=right, n=n, interval=interval, clusters=distinct)


def effective_size(correct: Sequence[bool], clusters: Sequence[str]) -> float:
    """Return how many independent items would tell as much as these clustered ones.

    The number of items divided by the design effect (the cluster-robust variance over that of independent
    items) and corrected for the few clusters the variance was estimated from (Korn and Graubard, Survey
    Methodology 24:193, 1998); never more than there are items. Where nothing can be estimated (all right, all
    wrong, a single cluster) the items of a cluster count as if they were always right together.

    >>> effective_size([True, False], ["a", "a"])
    1.0
    """
    _, members = np.unique(np.asarray(clusters), return_inverse=True)
    values = np.asarray(correct, dtype=np.float64)
    n, share = len(values), float(values.mean())
    sizes = np.bincount(members)
    count = len(sizes)
    if count < 2 or share in (0.0, 1.0):
        return float(n * n / (sizes.astype(np.float64) @ sizes))
    residuals = np.bincount(members, weights=values - share)
    variance = count / (count - 1) * float(residuals @ residuals) / (n * n)
    quantile = (1 + CONFIDENCE) / 2
    correction = float(norm.ppf(quantile) / t.ppf(quantile, count - 1)) ** 2
    return min(float(n), share * (1 - share) / variance * correction if variance > 0 else float(n))


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
