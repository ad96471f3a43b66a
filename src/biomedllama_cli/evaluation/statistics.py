"""Metrics from log-likelihoods, each with its 95 % interval; pure functions of numbers."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from biomedllama_cli.evaluation.cells import Accuracy, Frozen

CONFIDENCE = 0.95
UPPER_QUANTILE = (1 + CONFIDENCE) / 2
BOOTSTRAP_RESAMPLES = 5000
LARGEST_DRAW = 2_000_000
"""Drawn indices that are in memory at once."""
LARGEST_EXPONENT = math.log(sys.float_info.max)


def wilson_interval(correct: float, n: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of `correct` out of `n`, which need not be whole numbers.

    >>> low, high = wilson_interval(50, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    z_squared = float(ndtri(UPPER_QUANTILE)) ** 2
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


def effective_size(values: Sequence[float], clusters: Sequence[str]) -> float:
    """Return how many independent values have a mean as certain as that of these clustered ones.

    The number of values divided by the design effect (the cluster-robust variance over that of independent
    values) and corrected for the few clusters the variance was estimated from (Korn and Graubard, Survey
    Methodology 24:193, 1998); never more than there are values. Where nothing can be estimated (all are equal, or
    of a single cluster) the values of a cluster count as if they always went together.

    >>> effective_size([True, False], ["a", "a"])
    1.0
    """
    _, members = np.unique(np.asarray(clusters), return_inverse=True)
    numbers = np.asarray(values, dtype=np.float64)
    n, spread = len(numbers), float(numbers.var())
    sizes = np.bincount(members)
    count = len(sizes)
    if count < 2 or spread == 0:
        return float(n * n / (sizes.astype(np.float64) @ sizes))
    residuals = np.bincount(members, weights=numbers - numbers.mean())
    variance = count / (count - 1) * math.fsum(residuals * residuals) / (n * n)
    correction = float(ndtri(UPPER_QUANTILE) / stdtrit(count - 1, UPPER_QUANTILE)) ** 2
    return n * min(1.0, spread / (n * variance) * correction) if variance > 0 else float(n)


class SeedSummary(Frozen):
    """The same measurement with several seeds.

    Attributes:
        values: one per seed.
        n: seeds.
        mean: of the values.
        sd: their standard deviation (n - 1 in the denominator), which is no interval; None for one seed.
        interval: Student's 95 % interval of the mean over seeds, for these items; None for one seed.
    """

    values: tuple[float, ...]
    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


def summarise_seeds(values: Sequence[float]) -> SeedSummary:
    """Return mean, standard deviation and 95 % t-interval of one value per seed.

    Raises:
        ValueError: there are no values.

    >>> summary = summarise_seeds([0.30, 0.32, 0.34])
    >>> round(summary.mean, 3), round(summary.sd, 3), [round(end, 3) for end in summary.interval]
    (0.32, 0.02, [0.27, 0.37])
    """
    if not values:
        raise ValueError("a summary over seeds needs at least one value")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return SeedSummary(values=tuple(values), n=1, mean=mean, sd=None, interval=None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, UPPER_QUANTILE)) * sd / math.sqrt(n)
    return SeedSummary(values=tuple(values), n=n, mean=mean, sd=sd, interval=(mean - half, mean + half))


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
        The ends in nats per unit, or None for fewer than two documents.

    >>> bootstrap_rate_interval([-2.0, -2.0], [1, 1], seed=0)
    (2.0, 2.0)
    """
    return bootstrap_ratio_interval([-value for value in log_likelihoods], units, seed)


def bootstrap_ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], seed: int
) -> tuple[float, float] | None:
    """Return a 95 % bootstrap interval of (sum of numerators) / (sum of denominators), None for a single pair.

    Args:
        numerators: one per unit of resampling (a document, or a passage with all its questions).
        denominators: likewise.
        seed: of the resampling.

    >>> bootstrap_ratio_interval([1.0, 1.0, 1.0], [2, 2, 2], seed=0)
    (0.5, 0.5)
    """
    if len(numerators) < 2:
        return None
    pairs = np.stack([np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)], axis=1)
    ratios = np.concatenate([sums[:, 0] / sums[:, 1] for sums in iter_resampled_sums(pairs, seed)])
    return percentile_interval(ratios, len(pairs))


def iter_resampled_sums(rows: NDArray[np.float64], seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield column sums of rows drawn with replacement, BOOTSTRAP_RESAMPLES of them in blocks.

    Args:
        rows: shape (units, columns); as many are drawn as there are.
        seed: of the draws.
    """
    generator, count = np.random.default_rng(seed), len(rows)
    block = max(1, min(BOOTSTRAP_RESAMPLES, LARGEST_DRAW // count))
    for start in range(0, BOOTSTRAP_RESAMPLES, block):
        size = min(block, BOOTSTRAP_RESAMPLES - start)
        drawn = generator.integers(count, size=(size, count))
        # How often each row was drawn, all resamples at once: sums are then one product of matrices.
        drawn += count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count) @ rows


def percentile_interval(resampled: NDArray[np.float64], count: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of bootstrap values, widened for few units.

    The plain percentiles are too narrow by sqrt((n - 1) / n) and by a normal for a Student quantile; the levels are
    moved outwards by both (Hesterberg, The American Statistician 69:371, 2015, section 3.3).

    Args:
        resampled: the statistic of each resample.
        count: units that were resampled, at least 2.
    """
    level = float(ndtr(-math.sqrt(count / (count - 1)) * stdtrit(count - 1, UPPER_QUANTILE)))
    low, high = np.quantile(resampled, [level, 1 - level])
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
