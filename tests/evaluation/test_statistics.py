"""Intervals cover the truth as often as they say; simulated with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from biomedllama_cli.evaluation import statistics
from biomedllama_cli.evaluation.statistics import (
    accuracy,
    bits_per_byte,
    bootstrap_rate_interval,
    effective_size,
    summarise_seeds,
    wilson_interval,
)


@pytest.fixture
def few_resamples(monkeypatch):
    """Coverage needs many simulated data sets rather than many resamples of each."""
    monkeypatch.setattr(statistics, "BOOTSTRAP_RESAMPLES", 1000)


def draw_cluster_sizes(generator: np.random.Generator, n: int, largest: int) -> np.ndarray:
    sizes: list[int] = []
    while sum(sizes) < n:
        sizes.append(min(int(generator.integers(1, largest + 1)), n - sum(sizes)))
    return np.array(sizes)


def draw_right_answers(generator, sizes, share: float, correlation: float) -> list[bool]:
    """Beta-binomial answers: their intraclass correlation within a cluster is `correlation`."""
    if correlation == 0:
        return (generator.random(sizes.sum()) < share).tolist()
    scale = (1 - correlation) / correlation
    chances = generator.beta(share * scale, (1 - share) * scale, size=len(sizes))
    return (generator.random(sizes.sum()) < np.repeat(chances, sizes)).tolist()


@pytest.mark.parametrize("n", [40, 120, 1273])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_wilson_interval_covers_95_percent_over_all_possible_outcomes(n, share):
    covered = 0.0
    for correct in range(n + 1):
        low, high = wilson_interval(correct, n)
        covered += binom.pmf(correct, n, share) * (low <= share <= high)
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("n", [1, 2, 40, 1273])
def test_wilson_interval_equals_scipy_for_every_count(n):
    for correct in {0, 1, n // 3, n - 1, n}:
        expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("largest", [2, 6])
@pytest.mark.parametrize("correlation", [0.0, 0.3])
@pytest.mark.parametrize(("n", "share"), [(40, 0.25), (120, 0.5), (120, 0.9), (1000, 0.5)])
def test_clustered_interval_covers_where_passages_are_shared(n, share, correlation, largest):
    generator = np.random.default_rng(7)
    sizes = draw_cluster_sizes(generator, n, largest)
    clusters = [str(cluster) for cluster, size in enumerate(sizes) for _ in range(size)]
    repetitions, covered, naive = 600, 0, 0
    for _ in range(repetitions):
        right = draw_right_answers(generator, sizes, share, correlation)
        low, high = accuracy(right, clusters).interval
        covered += low <= share <= high
        low, high = accuracy(right).interval
        naive += low <= share <= high
    assert 0.93 <= covered / repetitions <= 0.985
    if largest == 6 and correlation:
        assert naive / repetitions < 0.9  # as if the items were independent: far too narrow


def test_items_that_share_nothing_have_the_plain_wilson_interval():
    right = [True, True, False, True]
    assert accuracy(right, list("abcd")) == accuracy(right)
    assert accuracy(right).clusters is None


def test_copies_of_an_item_count_as_one():
    right, clusters = [True, False, True, True, False] * 4, [f"p{row}" for row in range(20)]
    once = accuracy(right)
    thrice = accuracy(
        [value for value in right for _ in range(3)], [one for one in clusters for _ in range(3)]
    )
    assert thrice.value == once.value
    assert thrice.interval[0] <= once.interval[0]
    assert thrice.interval[1] >= once.interval[1]
    assert thrice.clusters == 20


@pytest.mark.parametrize("value", [True, False])
def test_all_right_or_all_wrong_still_has_an_interval_and_it_is_wider_with_clusters(value):
    plain, clustered = accuracy([value] * 12), accuracy([value] * 12, list("aabbccddeeff"))
    assert float(value) in plain.interval
    assert float(value) in clustered.interval
    assert clustered.interval[1] - clustered.interval[0] > plain.interval[1] - plain.interval[0]
    assert clustered.interval == pytest.approx(accuracy([value] * 6).interval)


def test_a_single_passage_says_as_much_as_one_item():
    assert effective_size([True, False, True], list("aaa")) == 1.0
    low, high = accuracy([True, False, True], list("aaa")).interval
    assert low < 0.2
    assert high > 0.9
    assert accuracy([True]).interval == wilson_interval(1, 1)


def test_effective_size_does_not_depend_on_the_names_of_the_passages():
    right = [True, False, True, True, False, False, True]
    assert effective_size(right, list("aabbccd")) == effective_size(right, list("zzyyxxw"))


def test_accuracy_of_nothing_or_of_mismatched_passages_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        accuracy([])
    with pytest.raises(ValueError, match="3 clusters"):
        accuracy([True, False], list("abc"))


@pytest.mark.parametrize("seeds", [3, 5])
def test_interval_over_seeds_covers_the_mean(seeds):
    generator = np.random.default_rng(11)
    repetitions, covered = 4000, 0
    for values in generator.normal(0.35, 0.02, size=(repetitions, seeds)):
        low, high = summarise_seeds(values.tolist()).interval
        covered += low <= 0.35 <= high
    assert covered / repetitions == pytest.approx(0.95, abs=0.012)


def test_one_seed_has_neither_deviation_nor_interval():
    summary = summarise_seeds([0.3])
    assert (summary.n, summary.mean, summary.sd, summary.interval) == (1, 0.3, None, None)
    with pytest.raises(ValueError, match="at least one"):
        summarise_seeds([])


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("documents", [12, 80])
def test_bootstrap_of_bits_per_byte_covers_the_true_rate(documents):
    generator = np.random.default_rng(5)
    repetitions, covered = 1000, 0
    for trial in range(repetitions):
        sizes = np.ceil(generator.lognormal(7.0, 0.5, size=documents))
        nats = sizes * generator.normal(0.8, 0.1, size=documents)
        low, high = bootstrap_rate_interval((-nats).tolist(), sizes.tolist(), seed=trial)
        covered += bits_per_byte(-low, 1) <= 0.8 / math.log(2) <= bits_per_byte(-high, 1)
    assert 0.93 <= covered / repetitions <= 0.97


def test_bootstrap_depends_on_the_seed_and_not_on_the_size_of_its_blocks(monkeypatch):
    values, units = [-float(row % 7 + 1) for row in range(50)], [row % 5 + 1 for row in range(50)]
    whole = bootstrap_rate_interval(values, units, seed=1)
    assert whole != bootstrap_rate_interval(values, units, seed=2)
    monkeypatch.setattr(statistics, "LARGEST_DRAW", 333)
    assert bootstrap_rate_interval(values, units, seed=1) == pytest.approx(whole, abs=1e-12)
    assert bootstrap_rate_interval([-1.0], [1], seed=0) is None
