"""A gain over seeds: its interval covers the truth as often as it says, and its tests are those of one seed for one."""

from __future__ import annotations

import numpy as np
import pytest

from biomedllama_cli.evaluation import paired, statistics
from biomedllama_cli.evaluation.paired import compare_answers
from biomedllama_cli.evaluation.seeds import COMBINED_TEST, measure_gain, show_mean_and_sd
from biomedllama_cli.evaluation.statistics import summarise_seeds


@pytest.fixture
def few_resamples(monkeypatch):
    """Make simulations quick: fewer resamples, and no power of every single seed, which they do not look at."""
    monkeypatch.setattr(statistics, "BOOTSTRAP_RESAMPLES", 600)
    monkeypatch.setattr(paired, "smallest_detectable_difference", lambda n, discordance: None)


def draw(generator, items: int, seeds: int, *, gain: float, seed_sd: float, per_passage: int = 1):
    """Answers before and after: a question's ease is shared by all models, a seed shifts all of its answers."""
    ease = np.repeat(generator.normal(0, 0.25, items // per_passage), per_passage)
    shift = generator.normal(gain, seed_sd, seeds)
    before = generator.random(items) < 0.5 + ease
    after = generator.random((seeds, items)) < 0.5 + ease + shift[:, None]
    return before.tolist(), after.tolist()


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "per_passage"), [(1, 0.0, 1), (3, 0.0, 1), (3, 0.03, 1), (3, 0.02, 4)]
)
def test_interval_covers_the_true_gain(few_resamples, seeds, seed_sd, per_passage):
    generator = np.random.default_rng(5)
    repetitions, items, covered = 150, 120, 0
    # Probabilities beyond 0 and 1 are cut, so the true gain is measured on a large sample.
    many = draw(np.random.default_rng(6), 400_000, 1, gain=0.1, seed_sd=0.0)
    truth = np.mean(many[1]) - np.mean(many[0])
    clusters = [str(item // per_passage) for item in range(items)] if per_passage > 1 else None
    for trial in range(repetitions):
        before, after = draw(generator, items, seeds, gain=0.1, seed_sd=seed_sd, per_passage=per_passage)
        low, high = measure_gain(before, after, clusters, seed=trial).difference.interval
        covered += low <= truth <= high
    assert 0.91 <= covered / repetitions <= 0.995


def test_seeds_that_differ_widen_the_interval():
    generator = np.random.default_rng(0)
    before = generator.random(400) < 0.5
    alike = np.repeat((generator.random(400) < 0.6)[None], 3, axis=0)
    apart = np.stack([generator.random(400) < share for share in (0.45, 0.6, 0.75)])

    def width(after):
        low, high = measure_gain(before.tolist(), after.tolist(), seed=0).difference.interval
        return high - low

    assert width(apart) > 1.5 * width(alike)


def test_one_seed_is_the_comparison_of_two_models():
    before, (after,) = draw(np.random.default_rng(2), 200, 1, gain=0.1, seed_sd=0.0, per_passage=2)
    for clusters in (None, [str(item // 2) for item in range(200)]):
        gain = measure_gain(before, [after], clusters, seed=3)
        pair = compare_answers(before, after, clusters, seed=3)
        assert gain.seeds == (pair,)
        assert gain.difference == pair.difference
        assert gain.p_value == pytest.approx(pair.p_value)
        assert (gain.test, gain.smallest_detectable) == (pair.test, pair.smallest_detectable)
        assert gain.summary.sd is None


def test_seeds_that_answer_alike_add_nothing():
    before, (after,) = draw(np.random.default_rng(2), 300, 1, gain=0.1, seed_sd=0.0)
    one, three = measure_gain(before, [after], seed=3), measure_gain(before, [after] * 3, seed=3)
    assert three.p_value == pytest.approx(one.p_value)
    assert three.difference.interval == pytest.approx(one.difference.interval)
    assert three.summary.sd == 0
    assert three.test == COMBINED_TEST
    # The bootstrap's 2.8 standard errors agree with the exact power of McNemar's test.
    assert three.smallest_detectable == pytest.approx(one.smallest_detectable, rel=0.08)


def test_combined_test_claims_no_more_than_its_level(few_resamples):
    generator = np.random.default_rng(7)
    repetitions, claims = 200, 0
    for trial in range(repetitions):
        before, after = draw(generator, 60, 3, gain=0.0, seed_sd=0.0)
        claims += measure_gain(before, after, seed=trial).p_value < 0.05
    assert 0.005 <= claims / repetitions <= 0.09


def test_three_seeds_find_what_one_does_not(few_resamples):
    generator = np.random.default_rng(11)
    found = {1: 0, 3: 0}
    for trial in range(60):
        before, after = draw(generator, 150, 3, gain=0.12, seed_sd=0.0)
        for count in found:
            found[count] += measure_gain(before, after[:count], seed=trial).p_value < 0.05
    assert found[3] > found[1] + 5


def test_same_answers_before_and_after_have_no_interval():
    gain = measure_gain([True, False, True], [[True, False, True]] * 2, seed=0)
    assert (gain.difference.value, gain.difference.interval) == (0, None)
    assert (gain.p_value, gain.smallest_detectable) == (1, None)


def test_result_depends_on_the_seed_of_the_bootstrap_alone():
    before, after = draw(np.random.default_rng(3), 80, 3, gain=0.1, seed_sd=0.02)
    assert measure_gain(before, after, seed=1) == measure_gain(before, after, seed=1)
    assert measure_gain(before, after, seed=1).difference != measure_gain(before, after, seed=2).difference


@pytest.mark.parametrize(
    ("before", "after"), [([], [[]]), ([True], []), ([True, False], [[True], [True, False]])]
)
def test_answers_that_do_not_fit_together_are_refused(before, after):
    with pytest.raises(ValueError, match="there must be as many"):
        measure_gain(before, after, seed=0)


def test_mean_and_deviation_are_shown_as_published():
    assert show_mean_and_sd(summarise_seeds([0.4, 0.41, 0.42])) == "0.4100 ± 0.010"
    assert show_mean_and_sd(summarise_seeds([0.764])) == "0.7640"
