"""Results that must not be worse than a value: `--fail-under medqa=0.30`, for pipelines."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.evaluation.cells import Results
from biomedllama_cli.settings.suggest import suggest

_FORM_HINT = "Write TASK=VALUE or PROFILE:TASK=VALUE, as in medqa=0.30 or clean:pubmedqa=0.6."


@dataclass(frozen=True, slots=True)
class Threshold:
    """The worst value a task may have.

    Attributes:
        profile: a profile's name, with or without its version; None means every profile of the task.
        task: as in `--task`.
        value: the least accuracy (a fraction), or for running text the most bits per byte.
    """

    profile: str | None
    task: str
    value: float

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        return f"{self.profile}:{self.task}={self.value:g}" if self.profile else f"{self.task}={self.value:g}"

    def covers(self, profile: str, task: str) -> bool:
        """Tell whether a cell's profile (`paper/1`) and task are meant."""
        return task == self.task and self.profile in (None, profile, profile.partition("/")[0])


def parse_thresholds(texts: Sequence[str]) -> tuple[Threshold, ...]:
    """Read what `--fail-under` was given.

    Raises:
        SettingsError: a text has another form, or a value is no number of zero or more.
    """
    return tuple(map(parse_threshold, texts))


def parse_threshold(text: str) -> Threshold:
    """Read `TASK=VALUE` or `PROFILE:TASK=VALUE`.

    Raises:
        SettingsError: it has another form, or the value is no number of zero or more.

    >>> parse_threshold("clean:pubmedqa=0.6")
    Threshold(profile='clean', task='pubmedqa', value=0.6)
    """
    place, equals, number = text.rpartition("=")
    profile, colon, task = place.rpartition(":")
    if not equals or not task.strip() or (colon and not profile.strip()):
        raise SettingsError(f"fail_under is {text!r}; it must name a task and a value", _FORM_HINT)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise SettingsError(
            f"fail_under is {text!r}; the value must be a number of 0 or more, not {number.strip()!r}",
            _FORM_HINT,
        )
    return Threshold(profile.strip() or None, task.strip(), value)


def check_threshold_names(
    thresholds: Sequence[Threshold],
    *,
    questions: Collection[str],
    texts: Collection[str],
    profiles: Collection[str],
) -> None:
    """Refuse thresholds that no result of an evaluation can be held against, before hours of work.

    Args:
        thresholds: as parsed.
        questions: tasks of questions that will be scored.
        texts: tasks of running text.
        profiles: profiles that will be asked, with or without their versions.

    Raises:
        SettingsError: a task or profile is not among them, or an accuracy is above 1.
    """
    names = {*profiles, *(profile.partition("/")[0] for profile in profiles)}
    tasks = [*questions, *texts]
    for threshold in thresholds:
        said = f"fail_under is '{threshold}'"
        if threshold.task not in tasks:
            hint = suggest(threshold.task, tasks) or f"Tasks of this evaluation: {', '.join(tasks)}."
            raise SettingsError(f"{said}, but {threshold.task} is not evaluated", hint)
        if threshold.profile is not None and threshold.profile not in names:
            hint = suggest(threshold.profile, names) or f"Profiles of this evaluation: {', '.join(profiles)}."
            raise SettingsError(f"{said}, but the profile {threshold.profile} is not evaluated", hint)
        if threshold.task in questions and threshold.value > 1:
            raise SettingsError(
                f"{said}, but an accuracy is a fraction and cannot exceed 1",
                f"For {threshold.value:g} percent write {threshold.value / 100:g}.",
            )


def check_thresholds(thresholds: Sequence[Threshold], results: Sequence[Results]) -> tuple[str, ...]:
    """Return a sentence for each result that is worse than a threshold, and for each threshold without a result.

    An accuracy fails below its value, bits per byte fail above it; equal passes. Several models are held against
    the same thresholds one by one, and named.
    """
    sentences = []
    for one in results:
        model = f"{one.model.source}: " if len(results) > 1 else ""
        for threshold in thresholds:
            sentences += [f"{model}{reason}" for reason in _find_reasons(threshold, one)]
    return tuple(sentences)


def _find_reasons(threshold: Threshold, results: Results) -> Iterator[str]:
    questions = [cell for cell in results.questions if threshold.covers(cell.profile, cell.task)]
    texts = [cell for cell in results.texts if threshold.covers(cell.profile, cell.task)]
    if not questions and not texts:
        yield f"{threshold}: it was not evaluated"
    for question in questions:
        name = question.metrics.headline
        score = question.metrics.scores[name]
        if not score.value >= threshold.value:
            found = f"{name} {score.value:.6g} ({score.correct}/{score.n})"
            yield f"{question.task} under {question.profile} has {found}, below {threshold.value:g}"
    for text in texts:
        bits = text.metrics.bits_per_byte.value
        if not bits <= threshold.value:
            yield f"{text.task} under {text.profile} has {bits:.6g} bits per byte, above {threshold.value:g}"
