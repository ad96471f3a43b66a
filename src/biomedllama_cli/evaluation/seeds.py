"""What training has changed, measured with several seeds: one model before, one per seed after, the same questions.

The gain is the mean over seeds of the accuracy after, minus the accuracy before. Three sources make it uncertain:
the questions (a sample of those that could have been asked), the seeds (a sample of the runs that could have been
made), and both together. How each is counted:

- interval: passages (a question without one is its own) are drawn with replacement, and inside each such draw the
  seeds, once for all questions, since a seed's model is one model whatever it is asked. The part that questions and
  seeds share is counted about twice, so that the interval is rather too wide than too narrow
  (Owen, Annals of Applied Statistics 1:386, 2007), unless the seeds' own part outweighs that of the questions: of that
  the bootstrap sees only (S - 1) / S with S seeds, and two or three then give too narrow an interval.
  With one seed nothing is known of seeds, and only questions count.
- test of one seed: McNemar's exact test, or that of passages.
- test of all seeds: each passage's sum over questions and seeds of (right after - right before) is turned round, and
  the exact distribution of the total gives p. With one seed this is the test above. It is about the models that
  were trained; whether other seeds would do likewise is what the interval says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from biomedllama_cli.evaluation.cells import Frozen
from biomedllama_cli.evaluation.paired import (
    POWER,
    Difference,
    PairedAnswers,
    compare_answers,
    exact_sign_flip_test,
)
from biomedllama_cli.evaluation.statistics import (
    UPPER_QUANTILE,
    SeedSummary,
    iter_resampled_sums,
    percentile_interval,
    summarise_seeds,
)

COMBINED_TEST = "exact sign-flip test of the seeds together"


class Gain(Frozen):
    """Right and wrong answers before training and after it with several seeds.

    Attributes:
        summary: of the accuracies after, over seeds.
        difference: mean accuracy after minus accuracy before, with its interval over questions and seeds.
        seeds: each seed's answers beside those before; their p-values stand for themselves alone.
        test: name of the test of all seeds together.
        p_value: two-sided, of that test.
        smallest_detectable: the difference found with 80 % power at 0.05: of one seed by McNemar's exact test, of
            several 2.8 standard errors of the bootstrap; None where no difference would be found.
    """

    summary: SeedSummary
    difference: Difference
    seeds: tuple[PairedAnswers, ...]
    test: str
    p_value: float
    smallest_detectable: float | None


def measure_gain(
    before: Sequence[bool],
    after: Sequence[Sequence[bool]],
    clusters: Sequence[str] | None = None,
    *,
    seed: int,
) -> Gain:
    """Compare answers before training with those after it, one list per seed.

    Args:
        before: whether each answer is right.
        after: likewise, one list per seed, of the same questions in the same order.
        clusters: passage of each question, or None where all are independent.
        seed: of the bootstrap.

    Raises:
        ValueError: there are no questions or no seeds, or the lists are not of one length.

    >>> gain = measure_gain([True, False, False, False], [[True, True, False, False]] * 2, seed=0)
    >>> gain.difference.value, gain.summary.sd, gain.p_value
    (0.25, 0.0, 1.0)
    """
    _check_lengths(before, after)
    right_before = np.asarray(before, dtype=np.int64)
    right_SN = np.asarray([np.asarray(answers, dtype=bool) for answers in after], dtype=np.int64)
    steps_SN = right_SN - right_before
    sizes, sums_CS = _sum_passages(steps_SN, clusters)
    paired = tuple(
        compare_answers(list(before), [bool(right) for right in answers], clusters, seed=seed)
        for answers in right_SN
    )
    resampled = _resample(sizes, sums_CS, seed) if len(sizes) > 1 and steps_SN.any() else None
    return Gain(
        summary=summarise_seeds([float(right.mean()) for right in right_SN]),
        difference=Difference(
            value=float(steps_SN.mean()),
            interval=None if resampled is None else percentile_interval(resampled, len(sizes)),
        ),
        seeds=paired,
        test=paired[0].test if len(paired) == 1 else COMBINED_TEST,
        p_value=exact_sign_flip_test(sums_CS.sum(axis=1).round().astype(np.int64).tolist()),
        smallest_detectable=paired[0].smallest_detectable if len(paired) == 1 else _find_reach(resampled),
    )


def _check_lengths(before: Sequence[bool], after: Sequence[Sequence[bool]]) -> None:
    if not after or not before or any(len(answers) != len(before) for answers in after):
        raise ValueError(
            f"{len(before)} answers before and {[len(answers) for answers in after]} after; there must be as many"
        )


def _sum_passages(
    steps_SN: NDArray[np.int64], clusters: Sequence[str] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the questions of each passage, and the sum of each seed's steps over them, of shape (passages, seeds)."""
    members = (
        np.arange(steps_SN.shape[1])
        if clusters is None
        else np.unique(np.asarray(clusters), return_inverse=True)[1]
    )
    by_seed = [np.bincount(members, weights=steps).astype(np.float64) for steps in steps_SN]
    return np.bincount(members), np.stack(by_seed, axis=1)


def show_mean_and_sd(summary: SeedSummary) -> str:
    """Return an accuracy over seeds as it is published: `0.3946 ± 0.008`; of one seed the value alone.

    >>> show_mean_and_sd(summarise_seeds([0.3866, 0.3946, 0.4026])), show_mean_and_sd(summarise_seeds([0.4994]))
    ('0.3946 ± 0.008', '0.4994')
    """
    return f"{summary.mean:.4f}" + ("" if summary.sd is None else f" \N{PLUS-MINUS SIGN} {summary.sd:.3f}")


def _resample(sizes: NDArray[np.int64], sums_CS: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return the gain of each resample, its questions and seeds drawn anew."""
    count = sums_CS.shape[1]
    generator = np.random.default_rng([seed, count])  # not that of the questions
    rows = np.concatenate([sizes[:, None].astype(np.float64), sums_CS], axis=1)
    gains = []
    for sums in iter_resampled_sums(rows, seed):
        drawn = generator.integers(count, size=(len(sums), count))
        gains.append(np.take_along_axis(sums[:, 1:], drawn, axis=1).mean(axis=1) / sums[:, 0])
    return np.concatenate(gains)


def _find_reach(resampled: NDArray[np.float64] | None) -> float | None:
    """Return the difference found with 80 % power, by the normal approximation."""
    if resampled is None:
        return None
    reach = float(ndtri(UPPER_QUANTILE) + ndtri(POWER)) * float(resampled.std(ddof=1))
    return reach if math.isfinite(reach) and reach > 0 else None
