"""Two models on the same items: exact tests, paired intervals, and what could have been found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biomedllama_cli.evaluation.cells import Frozen
from biomedllama_cli.evaluation.statistics import (
    CONFIDENCE,
    bootstrap_ratio_interval,
    effective_size,
    iter_resampled_sums,
    percentile_interval,
)

LEVEL = 1 - CONFIDENCE
POWER = 0.8
SIGN_FLIPS = 9999
SIGN_FLIP_BLOCK = 100


class Difference(Frozen):
    """The second minus the first, with its 95 % paired bootstrap interval.

    The interval is None where no item tells the two apart (resampling then shows nothing), or there is one item only.
    """

    value: float
    interval: tuple[float, float] | None


class PairedAnswers(Frozen):
    """Two sets of answers to the same questions.

    Attributes:
        n: questions.
        clusters: passages they share, None where each has its own.
        both: questions both have right.
        only_first: questions only the first has right.
        only_second: likewise the second.
        neither: questions both have wrong.
        difference: of the accuracies (fractions).
        test: name of the test.
        p_value: two-sided, for itself alone.
        smallest_detectable: the difference of accuracies that the test at 0.05 finds with 80 % power, for as many
            questions and as many on which the two differ; None where no difference would be found.
    """

    n: int
    clusters: int | None
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: Difference
    test: str
    p_value: float
    smallest_detectable: float | None


def compare_answers(
    first: Sequence[bool], second: Sequence[bool], clusters: Sequence[str] | None = None, *, seed: int
) -> PairedAnswers:
    """Compare right and wrong answers of two models to the same questions.

    Independent questions are tested by McNemar's exact test; where questions share a passage, by the exact test
    that turns round the two models' answers passage by passage (of which McNemar's is the case of one question each).

    Args:
        first: whether each answer of the first is right.
        second: likewise the second.
        clusters: passage of each question, or None.
        seed: of the bootstrap.

    >>> paired = compare_answers([True, True, False, False], [True, False, True, True], seed=0)
    >>> paired.only_first, paired.only_second, paired.difference.value, paired.p_value
    (1, 2, 0.25, 1.0)
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    n, steps = len(a), b.astype(np.int64) - a
    members = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    sizes = np.bincount(members)
    shared = len(sizes) < n
    sums = np.bincount(members, weights=steps).round().astype(np.int64)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_first + only_second
    interval = bootstrap_ratio_interval(sums.tolist(), sizes.tolist(), seed) if discordant else None
    if shared:
        assert clusters is not None
        size = effective_size(steps.tolist(), clusters)
        test, p_value = "exact sign-flip test of passages", exact_sign_flip_test(sums.tolist())
    else:
        size = float(n)
        test, p_value = "exact McNemar test", mcnemar_test(only_first, only_second)
    return PairedAnswers(
        n=n,
        clusters=len(sizes) if shared else None,
        both=int((a & b).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~a & ~b).sum()),
        difference=Difference(value=(only_second - only_first) / n, interval=interval),
        test=test,
        p_value=p_value,
        smallest_detectable=smallest_detectable_difference(round(size), discordant / n),
    )


def mcnemar_test(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    >>> mcnemar_test(1, 6)
    0.125
    """
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)


def exact_sign_flip_test(sums: Sequence[int]) -> float:
    """Return the two-sided p-value of a total of integers whose signs could each as well be the other way round.

    The distribution over all 2^n choices of signs is worked out exactly, by convolution.

    >>> exact_sign_flip_test([1, 1, 1, 1, 1, 1, -1])
    0.125
    >>> exact_sign_flip_test([2, 2, 3])
    0.25
    """
    steps = [abs(value) for value in sums if value]
    width, total = sum(steps), abs(sum(sums))
    chances = np.zeros(2 * width + 1)
    chances[width] = 1.0
    for step in steps:
        chances = (
            np.roll(chances, step) + np.roll(chances, -step)
        ) / 2  # nothing is near enough to the ends to wrap
    return min(1.0, float(chances[width + total :].sum() + chances[: width - total + 1].sum()))


def smallest_detectable_difference(n: int, discordance: float) -> float | None:
    """Return the difference of accuracies that McNemar's exact test at 0.05 finds with 80 % power.

    The number of questions on which two models differ is binomial(n, discordance), and of these the better model
    has binomial(., 1/2 + difference / (2 discordance)) right. The power is summed over both and solved for the
    difference: the unconditional exact power of Duffy (Biometrics 40:1005, 1984); Connor's normal
    approximation (Biometrics 43:207, 1987) gives nearly the same for many questions.

    Args:
        n: questions.
        discordance: share of questions that only one of the two has right.

    Returns:
        A fraction, or None where even the largest possible difference, the discordance, would not be found.

    >>> round(smallest_detectable_difference(1273, 0.2), 4)
    0.0357
    >>> smallest_detectable_difference(10, 0.3) is None
    True
    """
    from scipy.optimize import brentq
    from scipy.stats import binom

    if discordance <= 0 or n < 1:
        return None
    low, high = binom.ppf([1e-9, 1 - 1e-9], n, discordance)
    differing = np.arange(int(low), int(high) + 1)
    chances = binom.pmf(differing, n, discordance)
    # The least number of wins out of each that is significant; one more than there are where none is.
    wins = binom.isf(LEVEL / 2, differing, 0.5) + 1

    def missing_power(difference: float) -> float:
        share = min(1.0, (1 + difference / discordance) / 2)
        found = binom.sf(wins - 1, differing, share) + binom.cdf(differing - wins, differing, share)
        return float(chances @ found) - POWER

    if missing_power(discordance) < 0:
        return None
    return float(brentq(missing_power, 0.0, discordance, xtol=1e-6))


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: below 0.05, the chance of any false claim among all of them is below 0.05.

    >>> adjust_by_holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p_values, method="holm")[1]] if p_values else []


def compare_bits_per_byte(
    first: Sequence[float], second: Sequence[float], utf8_bytes: Sequence[int], *, seed: int
) -> tuple[Difference, float | None]:
    """Return the difference in bits per byte of two models on the same documents, and its p-value.

    The interval resamples documents with both models' log-likelihoods together, and takes sum over sum. The test
    turns round the two models' results document by document; the p-value is None for a single document.

    Args:
        first: log-likelihood of each document under the first model (in nats).
        second: likewise the second.
        utf8_bytes: of each document.
        seed: of bootstrap and test.

    >>> compare_bits_per_byte([-3.0, -3.0], [-3.0, -3.0], [2, 2], seed=0)
    (Difference(value=0.0, interval=(0.0, 0.0)), 1.0)
    """
    bits = (np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)) / math.log(2.0)
    value = float(bits.sum()) / sum(utf8_bytes)
    difference = Difference(value=value, interval=bootstrap_ratio_interval(bits.tolist(), utf8_bytes, seed))
    return difference, _sign_flip_test(bits, seed) if len(bits) > 1 else None


def _sign_flip_test(values: NDArray[np.float64], seed: int) -> float:
    generator = np.random.default_rng(seed)
    bound = abs(float(values.sum())) - 1e-12 * float(np.abs(values).sum())  # ties must survive rounding
    at_least = 0
    for start in range(0, SIGN_FLIPS, SIGN_FLIP_BLOCK):
        size = min(SIGN_FLIP_BLOCK, SIGN_FLIPS - start)
        signs = 2 * generator.integers(0, 2, size=(size, len(values)), dtype=np.int8) - 1
        at_least += int((np.abs(signs @ values) >= bound).sum())
    return (at_least + 1) / (SIGN_FLIPS + 1)


def compare_macro_f1(
    answers: Sequence[int],
    first: Sequence[int | None],
    second: Sequence[int | None],
    classes: int,
    *,
    clusters: Sequence[str] | None = None,
    seed: int,
) -> Difference:
    """Return the difference of macro-F1 over labels that mean the same in every question.

    Args:
        answers: right label of each question.
        first: label each was given by the first model, None where no label could be read.
        second: likewise by the second.
        classes: number of labels.
        clusters: passage of each question, or None; whole passages are resampled.
        seed: of the bootstrap.

    >>> compare_macro_f1([0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1], 2, seed=0).value
    0.2666666666666666
    """
    right = np.eye(classes)[np.asarray(answers)]
    shown = [
        np.eye(classes + 1)[[classes if one is None else one for one in given]][:, :classes]
        for given in (first, second)
    ]
    # Per question: hits of each label, and answers plus predictions of each label, for both models.
    rows = np.concatenate([part for given in shown for part in (right * given, right + given)], axis=1)
    if clusters is not None:
        _, members = np.unique(np.asarray(clusters), return_inverse=True)
        summed = np.zeros((int(members.max()) + 1, rows.shape[1]))
        np.add.at(summed, members, rows)
        rows = summed
    value = float(_macro_f1_difference(rows.sum(axis=0, keepdims=True), classes)[0])
    if len(rows) < 2 or list(first) == list(second):
        return Difference(value=value, interval=None)
    resampled = np.concatenate(
        [_macro_f1_difference(sums, classes) for sums in iter_resampled_sums(rows, seed)]
    )
    return Difference(value=value, interval=percentile_interval(resampled, len(rows)))


def _macro_f1_difference(sums: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    hits_a, involved_a, hits_b, involved_b = np.split(sums, 4, axis=1)

    def macro(hits: NDArray[np.float64], involved: NDArray[np.float64]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = (2 * hits / np.maximum(involved, 1)).mean(axis=1)
        return mean

    return macro(hits_b, involved_b) - macro(hits_a, involved_a)
