"""The tables of benchmarks/pretrain.py: speed, MFU, peaks, intervals over rounds, and equal losses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t

from pretrain_setting import Outcome

Runs = dict[str, list[Outcome]]
"""The outcomes of every arm, one per round, in the order of the rounds."""

WANTED_LOSS = {"bf16": 1e-2, "fp32": 1e-4}
"""Largest difference of a step's loss from ours (in nats per token)."""

WANTED_PEAK, WANTED_COST = 0.7, 0.15
"""Of the Trainer's peak at most, and of the speed of the fastest of our losses at most."""


def find_ratio(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of the rounds' ratios and its 95 % t interval; infinitely wide for one round.

    >>> find_ratio([2.0, 2.0], [1.0, 1.0])
    (2.0, 2.0, 2.0)
    >>> [round(number, 2) for number in find_ratio([2.0, 2.2, 1.8], [1.0, 1.0, 1.0])]
    [1.99, 1.55, 2.56]
    """
    logs = [math.log(a / b) for a, b in zip(ours, others, strict=True)]
    mean, rounds = statistics.fmean(logs), len(logs)
    if rounds < 2:
        return math.exp(mean), 0.0, math.inf
    half = float(t.ppf(0.975, rounds - 1)) * statistics.stdev(logs) / math.sqrt(rounds)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def format_ratio(ours: Sequence[float], others: Sequence[float]) -> str:
    """Return the ratio over the rounds that both have, with its interval where there is one.

    >>> format_ratio([2.0], [1.0, 1.0])
    '2.000 (one round)'
    """
    rounds = min(len(ours), len(others))
    mean, low, high = find_ratio(ours[:rounds], others[:rounds])
    return f"{mean:.3f} (one round)" if rounds < 2 else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def find_difference(one: Outcome, other: Outcome) -> float:
    """Return the largest difference of a step's loss."""
    return max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))


def speeds(outcomes: Sequence[Outcome], warmup: int) -> list[float]:
    """Return each round's tokens per second."""
    return [one.speed(warmup) for one in outcomes]


def median_speed(outcomes: Sequence[Outcome], warmup: int) -> float:
    """Return the median of the rounds' tokens per second."""
    return statistics.median(speeds(outcomes, warmup))


def peaks(outcomes: Sequence[Outcome]) -> list[float]:
    """Return each round's peak (in MiB)."""
    return [one.peak_mib for one in outcomes]


def peak(outcomes: Sequence[Outcome]) -> float:
    """Return the median of the rounds' peaks (in MiB)."""
    return statistics.median(peaks(outcomes))


def describe_speed(
    runs: Runs, reference: str, warmup: int, flops: tuple[float, float], peak_flops: float
) -> list[str]:
    """Return the table of arms that do the same work.

    Args:
        runs: of all arms.
        reference: the arm that the others are compared with; its speed over theirs.
        warmup: steps that are not timed.
        flops: of one token, without attention and with it.
        peak_flops: of the device.
    """
    base = speeds(runs[reference], warmup)
    lines = [
        f"| arm | tokens/s | MFU, 6 N | MFU with attention | {reference} is times faster (95 % interval) "
        "| peak (MiB) | before the first step | peak of ours / this | largest difference of a step's loss | notes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, outcomes in runs.items():
        own = speeds(outcomes, warmup)
        middle = statistics.median(own)
        cells = [
            arm,
            f"{middle:,.0f}",
            *(f"{100 * middle * each / peak_flops:.1f} %" for each in flops),
            "-" if arm == reference else format_ratio(base, own),
            f"{peak(outcomes):,.0f}",
            f"{statistics.median(one.loaded_mib for one in outcomes):,.0f}",
            f"{peak(runs[reference]) / peak(outcomes):.2f}",
            f"{max(find_difference(one, runs[reference][0]) for one in outcomes):.1e}",
            outcomes[0].notes,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def describe_memory(runs: Runs, reference: str, trainer: str, warmup: int) -> list[str]:
    """Return the table of losses: what each saves and costs beside all logits at once, and beside the Trainer."""
    base = speeds(runs[reference], warmup)
    lines = [
        f"| loss | tokens/s | speed of {reference} / this (95 % interval) | peak (MiB) "
        f"| peak / {trainer}'s (95 % interval) | largest difference of a step's loss from {reference} |",
        "|---|---|---|---|---|---|",
    ]
    for arm, outcomes in runs.items():
        own = speeds(outcomes, warmup)
        share = format_ratio(peaks(outcomes), peaks(runs[trainer]))
        lines.append(
            f"| {arm} | {statistics.median(own):,.0f} | {format_ratio(base, own)} | {peak(outcomes):,.0f} "
            f"| {share} | {max(find_difference(one, runs[reference][0]) for one in outcomes):.1e} |"
        )
    return lines


def judge_memory(runs: Runs, ours: Sequence[str], trainer: str, warmup: int) -> str:
    """Return whether one of our arms needs as little memory as is wanted, and what it costs beside our fastest.

    Both are ratios of the same rounds. Of several that fit it is the fastest.

    >>> def arm(speed, peak_mib):
    ...     return [Outcome(seconds=[1.0, 1 / speed], tokens=1, peak_mib=peak_mib) for _ in range(2)]
    >>> runs = {"plain": arm(100.0, 990.0), "fused": arm(90.0, 600.0), "trainer": arm(80.0, 1000.0)}
    >>> print(judge_memory(runs, ["plain", "fused"], "trainer", 1))
    fused needs 0.600 (0.600 to 0.600) of trainer's peak (wanted: <= 0.7) and has 0.900 (0.900 to 0.900) of the speed \
of plain, our fastest (wanted: >= 0.85).
    >>> judge_memory(runs, ["plain"], "trainer", 1)
    "none needs 0.7 of trainer's peak or less."
    """
    fits = [arm for arm in ours if find_ratio(peaks(runs[arm]), peaks(runs[trainer]))[0] <= WANTED_PEAK]
    if not fits:
        return f"none needs {WANTED_PEAK} of {trainer}'s peak or less."
    fastest, best = (max(arms, key=lambda arm: median_speed(runs[arm], warmup)) for arms in (ours, fits))
    share = format_ratio(peaks(runs[best]), peaks(runs[trainer]))
    speed = format_ratio(speeds(runs[best], warmup), speeds(runs[fastest], warmup))
    return (
        f"{best} needs {share} of {trainer}'s peak (wanted: <= {WANTED_PEAK}) and has {speed} of the speed of "
        f"{fastest}, our fastest (wanted: >= {1 - WANTED_COST})."
    )
