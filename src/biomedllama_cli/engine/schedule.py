"""The learning rate as a pure function of the step.

Nothing is stored between steps, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math

from biomedllama_cli.settings.pretrain import ScheduleSettings


def warmup_length(total_steps: int, settings: ScheduleSettings) -> int:
    """Return the warm-up (in steps), from `warmup_steps` or else from `warmup_fraction`, rounded up.

    >>> warmup_length(15_020, ScheduleSettings(warmup_fraction=0.03))
    451
    >>> warmup_length(100, ScheduleSettings(warmup_fraction=0.03, warmup_steps=7))
    7
    >>> warmup_length(5, ScheduleSettings(warmup_steps=70))
    5
    """
    steps = settings.warmup_steps
    if steps is None:
        # Rounding to 9 digits first: 0.03 * 100 is 3.0000000000000004 for no reason but binary fractions.
        steps = math.ceil(round(settings.warmup_fraction * total_steps, 9))
    return min(steps, total_steps)


def cosine_cycles(final_fraction: float) -> float:
    """Return the share of a whole cosine cycle after which it has fallen to `final_fraction` of its peak.

    The published script writes this number (`num_cycles`) instead of the 10 % it stands for:

    >>> round(cosine_cycles(0.1), 5)
    0.39758
    >>> cosine_cycles(0.0)
    0.5
    >>> cosine_cycles(1.0)
    0.0
    """
    return math.acos(2 * final_fraction - 1) / (2 * math.pi)


def learning_rate_at(
    step: int, *, total_steps: int, warmup_steps: int, peak_learning_rate: float, final_fraction: float
) -> float:
    """Return the learning rate of one optimizer step: linear warm-up, then a cosine cut off at the final fraction.

    The cosine is the published one (transformers' `get_cosine_schedule_with_warmup` with `num_cycles` 0.39758 for a
    final fraction of 0.1), not a half cosine lifted onto a floor. Steps count from 1, so that the first
    update already has a learning rate and the last one has exactly the final fraction.

    Args:
        step: number of the optimizer step, from 1 to `total_steps`.
        total_steps: steps of the whole run.
        warmup_steps: steps of the warm-up; the last of them has the peak.
        peak_learning_rate: highest learning rate.
        final_fraction: learning rate of the last step as a fraction of the peak.

    >>> rate = lambda step: learning_rate_at(
    ...     step, total_steps=100, warmup_steps=10, peak_learning_rate=2.0, final_fraction=0.1)
    >>> [round(rate(step), 4) for step in (1, 5, 10, 55, 100)]
    [0.2, 1.0, 2.0, 1.3162, 0.2]
    """
    if step <= warmup_steps:
        return peak_learning_rate * step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    angle = 2 * math.pi * cosine_cycles(final_fraction) * progress
    return peak_learning_rate * 0.5 * (1 + math.cos(angle))
