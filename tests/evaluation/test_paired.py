"""Paired tests and intervals: exact where they say so, and right as often as they say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, permutation_test

from biomedllama_cli.evaluation import paired, statistics
from biomedllama_cli.evaluation.paired import (
    adjust_by_holm,
    compare_answers,
    compare_bits_per_byte,
    compare_macro_f1,
    exact_sign_flip_test,
    mcnemar_test,
    smallest_detectable_difference,
)
from biomedllama_cli.evaluation.statistics import bootstrap_rate_interval, macro_f1


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "BOOTSTRAP_RESAMPLES", 1000)


def draw_answers(generator, n: int, only_first: float, only_second: float) -> tuple[list[bool], list[bool]]:
    kinds = generator.choice(4, size=n, p=[only_first, only_second, 0.3, 0.7 - only_first - only_second])
    return ((kinds == 0) | (kinds == 2)).tolist(), ((kinds == 1) | (kinds == 2)).tolist()


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (0, 6), (1, 6), (12, 30), (21, 21)])
def test_mcnemar_equals_the_binomial_test_of_the_discordant_questions(only_first, only_second):
    trials = only_first + only_second
    expected = binomtest(only_first, trials).pvalue if trials else 1.0
    assert mcnemar_test(only_first, only_second) == pytest.approx(expected)
    assert exact_sign_flip_test([-1] * only_first + [1] * only_second) == pytest.approx(expected)


def test_sign_flips_of_passages_equal_the_list_of_all_choices():
    sums = [3, -1, 2, 2, -4, 1, 0]
    totals = [
        sum(sign * value for sign, value in zip(signs, sums, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(sums))
    ]
    expected = sum(abs(total) >= abs(sum(sums)) for total in totals) / len(totals)
    assert exact_sign_flip_test(sums) == pytest.approx(expected)


def test_shared_passages_are_tested_as_passages():
    """Whole passages go to the one or the other by chance: McNemar's test would see a difference far too often."""
    generator = np.random.default_rng(1)
    clusters = [str(cluster) for cluster in range(30) for _ in range(5)]
    repetitions, wrong_claims, naive_claims = 400, 0, 0
    for trial in range(repetitions):
        better = np.repeat(generator.random(30) < 0.5, 5)
        second = (better & (generator.random(150) < 0.8)).tolist()
        first = (~better & (generator.random(150) < 0.8)).tolist()
        sums = [sum(second[row : row + 5]) - sum(first[row : row + 5]) for row in range(0, 150, 5)]
        wrong_claims += exact_sign_flip_test(sums) < 0.05
        naive_claims += mcnemar_test(sum(first), sum(second)) < 0.05
        if trial == 0:
            answers = compare_answers(first, second, clusters, seed=0)
            assert answers.test == "exact sign-flip test of passages"
            assert answers.p_value == exact_sign_flip_test(sums)
            assert answers.clusters == 30
    assert wrong_claims / repetitions < 0.075
    assert naive_claims / repetitions > 0.2


def test_identical_answers_show_no_difference_and_claim_no_certainty():
    right = [True, False, True, True]
    same = compare_answers(right, right, seed=0)
    assert (same.only_first, same.only_second, same.both, same.neither) == (0, 0, 3, 1)
    assert same.difference.value == 0
    assert same.difference.interval is None
    assert same.p_value == 1
    assert same.smallest_detectable is None


def test_swapping_the_models_turns_the_difference_round():
    first, second = draw_answers(np.random.default_rng(0), 200, 0.05, 0.15)
    one, two = compare_answers(first, second, seed=3), compare_answers(second, first, seed=3)
    assert one.difference.value == -two.difference.value == (sum(second) - sum(first)) / 200
    assert one.difference.interval == pytest.approx(tuple(-end for end in reversed(two.difference.interval)))
    assert one.p_value == two.p_value


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("n", [120, 200])
def test_paired_interval_of_accuracies_covers_the_true_difference(n):
    generator = np.random.default_rng(2)
    repetitions, covered = 600, 0
    for trial in range(repetitions):
        first, second = draw_answers(generator, n, 0.08, 0.14)
        steps = np.asarray(second, dtype=int) - np.asarray(first)
        low, high = statistics.bootstrap_ratio_interval(steps.tolist(), [1] * n, trial)
        covered += low <= 0.06 <= high
        if trial == 0:
            assert compare_answers(first, second, seed=trial).difference.interval == (low, high)
    assert 0.93 <= covered / repetitions <= 0.97


@pytest.mark.usefixtures("few_resamples")
def test_paired_interval_of_accuracies_covers_where_passages_are_shared(monkeypatch):
    monkeypatch.setattr(
        paired, "smallest_detectable_difference", lambda n, discordance: None
    )  # slow, not asked
    generator = np.random.default_rng(4)
    sizes = generator.integers(1, 7, size=60)
    clusters = [str(cluster) for cluster, size in enumerate(sizes) for _ in range(size)]
    repetitions, covered, naive = 600, 0, 0
    for trial in range(repetitions):
        shift = np.repeat(generator.random(60) < 0.5, sizes)
        first = generator.random(len(shift)) < np.where(shift, 0.7, 0.3)
        second = generator.random(len(shift)) < np.where(shift, 0.3, 0.8)
        low, high = compare_answers(first.tolist(), second.tolist(), clusters, seed=trial).difference.interval
        covered += low <= 0.05 <= high
        steps = second.astype(int) - first
        low, high = statistics.bootstrap_ratio_interval(steps.tolist(), [1] * len(steps), trial)
        naive += low <= 0.05 <= high
    assert 0.93 <= covered / repetitions <= 0.975
    assert naive / repetitions < 0.9


@pytest.mark.usefixtures("few_resamples")
def test_paired_interval_of_bits_per_byte_covers_and_is_narrower_than_unpaired(monkeypatch):
    monkeypatch.setattr(paired, "SIGN_FLIPS", 99)
    generator = np.random.default_rng(6)
    repetitions, covered, narrower = 800, 0, 0
    for trial in range(repetitions):
        sizes = np.ceil(generator.lognormal(7.0, 0.5, size=40))
        difficulty = generator.normal(0.8, 0.15, size=40)
        first = -sizes * (difficulty + generator.normal(0, 0.02, size=40))
        second = -sizes * (difficulty - 0.01 + generator.normal(0, 0.02, size=40))
        difference, _ = compare_bits_per_byte(first.tolist(), second.tolist(), sizes.tolist(), seed=trial)
        low, high = difference.interval
        covered += low <= -0.01 / math.log(2) <= high
        if trial < 20:
            alone = bootstrap_rate_interval(first.tolist(), sizes.tolist(), trial)
            narrower += high - low < (alone[1] - alone[0]) / math.log(2) / 2
    assert 0.93 <= covered / repetitions <= 0.97
    assert narrower == 20


def test_sign_flip_test_of_documents_agrees_with_scipy():
    generator = np.random.default_rng(8)
    first = generator.normal(-100, 20, size=30)
    second = first + generator.normal(1, 3, size=30)
    _, p_value = compare_bits_per_byte(first.tolist(), second.tolist(), [100] * 30, seed=0)
    expected = permutation_test(
        (second - first,),
        lambda values, axis: values.sum(axis),
        permutation_type="samples",
        vectorized=True,
        random_state=1,
    ).pvalue
    assert p_value == pytest.approx(expected, abs=0.015)
    assert compare_bits_per_byte([-1.0], [-2.0], [4], seed=0)[1] is None


def test_holm_equals_the_sum_by_hand():
    # In order: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not be below the one before it.
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([]) == []


@pytest.mark.parametrize(("n", "discordance"), [(120, 0.3), (500, 0.2), (1273, 0.25)])
def test_smallest_detectable_difference_is_found_four_times_in_five(n, discordance):
    difference = smallest_detectable_difference(n, discordance)
    generator = np.random.default_rng(9)
    chances = [(discordance - difference) / 2, (discordance + difference) / 2, 1 - discordance]
    only_first, only_second, _ = generator.multinomial(n, chances, size=20_000).T
    p_values = 2 * binom.cdf(np.minimum(only_first, only_second), only_first + only_second, 0.5)
    assert float((p_values <= 0.05).mean()) == pytest.approx(0.8, abs=0.01)
    connor = _connor_difference(n, discordance)
    assert (
        connor <= difference <= 1.15 * connor
    )  # the exact test needs a little more than the normal approximation


def _connor_difference(n: int, discordance: float) -> float:
    """Solve n d^2 = (1.96 sqrt(discordance) + 0.84 sqrt(discordance - d^2))^2 for d."""
    differences = np.linspace(1e-4, discordance, 100_000)
    needed = (1.959964 * math.sqrt(discordance) + 0.841621 * np.sqrt(discordance - differences**2)) ** 2
    return float(differences[np.argmax(n * differences**2 >= needed)])


def test_macro_f1_difference_equals_the_two_scores():
    generator = np.random.default_rng(10)
    answers, first, second = (generator.integers(0, 3, size=90).tolist() for _ in range(3))
    difference = compare_macro_f1(answers, first, second, 3, seed=0)
    assert difference.value == pytest.approx(macro_f1(answers, second, 3) - macro_f1(answers, first, 3))
    unread = [None, *first[1:]]
    assert compare_macro_f1(answers, unread, second, 3, seed=0).value == pytest.approx(
        macro_f1(answers, second, 3) - macro_f1(answers, [3, *first[1:]], 3)
    )
    assert compare_macro_f1(answers, first, first, 3, seed=0).interval is None


@pytest.mark.usefixtures("few_resamples")
def test_interval_of_macro_f1_covers_the_true_difference():
    generator = np.random.default_rng(12)

    def draw(n: int) -> tuple[list[int], list[int], list[int]]:
        answers = generator.choice(3, size=n, p=[0.5, 0.3, 0.2])
        given = [
            np.where(generator.random(n) < hit, answers, generator.integers(0, 3, size=n))
            for hit in (0.4, 0.5)
        ]
        return answers.tolist(), given[0].tolist(), given[1].tolist()

    answers, first, second = draw(400_000)
    truth = macro_f1(answers, second, 3) - macro_f1(answers, first, 3)
    repetitions, covered = 400, 0
    for trial in range(repetitions):
        low, high = compare_macro_f1(*draw(150), 3, seed=trial).interval
        covered += low <= truth <= high
    assert 0.92 <= covered / repetitions <= 0.975


def test_macro_f1_resamples_whole_passages():
    answers, first, second = [0, 1] * 30, [0, 0] * 30, [0, 1, 1, 1] * 15
    plain = compare_macro_f1(answers, first, second, 2, seed=0).interval
    clusters = [str(row // 12) for row in range(60)]
    clustered = compare_macro_f1(answers, first, second, 2, clusters=clusters, seed=0).interval
    assert clustered != plain
    assert clustered[1] - clustered[0] < 1e-9  # every passage here is the same mixture
