"""What an evaluation will read and score, worked out from its settings before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.profiles import PROFILES, Profile
from biomedllama_cli.settings.evaluate import ProtocolSettings
from biomedllama_cli.settings.suggest import suggest
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask, TextTask

logger = logging.getLogger(__name__)

TRAIN_SUFFIX = ".train"
HARNESS = "harness"
HARNESS_PREFIX = "lm-eval:"
HARNESS_TASKS = {
    "medqa": "medqa_4options",
    "medmcqa": "medmcqa",
    "pubmedqa": "pubmedqa",
}
"""lm-eval's current task of each of ours that it has."""
DEFAULT_TASK = "medqa"
HARNESS_GROUPS = ("multimedqa", "mmlu-pro-health", "careqa", "headqa")
"""Tasks and groups that only lm-eval has, under a name of their own."""


@dataclass(frozen=True)
class TaskPlan:
    """One task, its few-shot examples, and the local files it reads instead of the hub.

    Attributes:
        task: as in the catalogue.
        shots: few-shot examples per question.
        test_file: instead of the hub.
        train_file: likewise, the pool of the examples.
        profiles: that score it, in the order asked for.
    """

    task: QuestionTask | TextTask
    shots: int
    test_file: Path | None
    train_file: Path | None
    profiles: tuple[Profile, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that is to be scored.

    Attributes:
        tasks: scored by this project's own profiles.
        harness: names of lm-eval's tasks, by the name asked for.
        files: local files by `TASK` and `TASK.train`.
    """

    tasks: tuple[TaskPlan, ...]
    harness: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


def plan_tasks(settings: ProtocolSettings, shots_of: Mapping[str, int] | None = None) -> Plan:
    """Resolve `task`, `profile` and `data` into what is scored, in the order asked for.

    Args:
        settings: of the protocol.
        shots_of: few-shot examples by task where they differ (published rows); else `settings.shots`.

    Raises:
        SettingsError: an entry is unknown, malformed, given twice, or does not fit the others.
        DataError: a named file does not exist.
    """
    names = list(dict.fromkeys(settings.task or (DEFAULT_TASK,)))
    for name in names:
        _check_name(name)
    files = _read_files(settings, names, shots_of)
    profiles = [PROFILES[name] for name in dict.fromkeys(settings.profile)]
    harness = _choose_harness(names, profiles)
    _check_harness_pools(harness, files)
    _tell_without_effect(settings, names, profiles, harness)
    own = [profile for profile in profiles if profile.name != HARNESS]
    tasks = tuple(
        TaskPlan(
            TASKS[name],
            (settings.shots if shots_of is None else shots_of[name])
            if isinstance(TASKS[name], QuestionTask)
            else 0,
            files.get(name),
            files.get(name + TRAIN_SUFFIX),
            _fitting(own, TASKS[name]),
        )
        for name in names
        if name in TASKS and own
    )
    if settings.shots and not harness and not any(isinstance(plan.task, QuestionTask) for plan in tasks):
        raise SettingsError(
            f"protocol.shots is {settings.shots}, but running text takes no few-shot examples",
            "Leave --shots out.",
        )
    return Plan(tasks, harness, files)


def _check_name(name: str) -> None:
    if name in TASKS or name in HARNESS_GROUPS or (name.startswith(HARNESS_PREFIX) and len(name) > 8):
        return
    if Path(name).expanduser().is_file():
        raise SettingsError(
            f"protocol.task is {name!r}, a file and not a task",
            f"A file of your own goes in as --task questions --data questions={name}.",
        )
    known = [*TASKS, *HARNESS_GROUPS]
    raise SettingsError(
        f"protocol.task is {name!r}, which does not exist",
        f"{suggest(name, known)} Tasks: {', '.join(known)}, or {HARNESS_PREFIX}NAME for any task of lm-eval.".strip(),
    )


def _choose_harness(names: list[str], profiles: list[Profile]) -> dict[str, str]:
    """Return lm-eval's tasks by the names asked for: those only it has, and under its profile ours."""
    asked = any(profile.name == HARNESS for profile in profiles)
    chosen: dict[str, str] = {}
    for name in names:
        if name.startswith(HARNESS_PREFIX):
            chosen[name] = name.removeprefix(HARNESS_PREFIX)
        elif name in HARNESS_GROUPS:
            chosen[name] = name
        elif asked and name in HARNESS_TASKS:
            chosen[name] = HARNESS_TASKS[name]
        elif asked and len(profiles) == 1:
            raise SettingsError(
                f"profile harness has no task {name}",
                f"lm-eval's current tasks are {', '.join(HARNESS_TASKS)}; {HARNESS_PREFIX}NAME runs any other.",
            )
    return chosen


def _check_harness_pools(harness: Mapping[str, str], files: Mapping[str, Path]) -> None:
    """Refuse a pool that lm-eval would not read: it takes both parts of a task from files, or both from the hub."""
    for task in HARNESS_TASKS:
        if (
            (task in harness or "multimedqa" in harness)
            and task + TRAIN_SUFFIX in files
            and task not in files
        ):
            raise SettingsError(
                f"protocol.data has {task}{TRAIN_SUFFIX} without {task}, and lm-eval's task reads both from files or "
                "both from the hub",
                f"Add --data {task}=FILE, or leave the pool out.",
            )


def _tell_without_effect(
    settings: ProtocolSettings, names: Sequence[str], profiles: Sequence[Profile], harness: Mapping[str, str]
) -> None:
    """Warn of what was asked for and cannot be done for some task or profile."""
    ignored = [name for name in ("permutations", "matrix") if getattr(settings, name)]
    if harness and ignored:
        logger.warning(
            "%s: lm-eval asks %s in its own way; %s anything there",
            " and ".join(f"protocol.{name}" for name in ignored),
            ", ".join(harness),
            "this does not change" if len(ignored) == 1 else "neither changes",
        )
    for name in names:
        unfit = [
            profile.name
            for profile in profiles
            if name in TASKS and profile.name != HARNESS and not profile.supports(name)
        ]
        if HARNESS in {profile.name for profile in profiles} and name in TASKS and name not in harness:
            unfit.append(HARNESS)
        if unfit:
            logger.warning(
                "profile %s does not score the task %s and is left out there", ", ".join(unfit), name
            )


def _fitting(profiles: list[Profile], task: QuestionTask | TextTask) -> tuple[Profile, ...]:
    fitting = tuple(profile for profile in profiles if profile.supports(task.name))
    if not fitting:
        raise SettingsError(
            f"profile {', '.join(profile.name for profile in profiles)} does not score the task {task.name}",
            "Add --profile paper.",
        )
    return fitting


def _read_files(
    settings: ProtocolSettings, names: list[str], shots_of: Mapping[str, int] | None
) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for entry in settings.data:
        key, separator, value = entry.partition("=")
        if not separator or not value:
            raise SettingsError(
                f"protocol.data is {entry!r}; it must be TASK=FILE or TASK.train=FILE",
                "Example: --data medqa-5=test.jsonl",
            )
        name = key.removesuffix(TRAIN_SUFFIX)
        if name not in TASKS:
            raise SettingsError(
                f"protocol.data names the task {name!r}, which does not exist",
                f"{suggest(name, TASKS)} Tasks: {', '.join(TASKS)}.".strip(),
            )
        needed = name in names or ("multimedqa" in names and name in HARNESS_TASKS)
        if not needed:
            raise SettingsError(
                f"protocol.data has a file for {name}, which is not among the tasks asked for",
                f"Add --task {name}.",
            )
        if key != name and isinstance(TASKS[name], TextTask):
            raise SettingsError(f"protocol.data has {key}, but running text takes no few-shot examples")
        if key in files:
            raise SettingsError(f"protocol.data names {key} twice; one file per task is read")
        if key != name and not (settings.shots if shots_of is None else shots_of[name]):
            raise SettingsError(
                f"protocol.data has {key}, the pool of few-shot examples, but protocol.shots is 0",
                "Add --shots N, or leave the pool out.",
            )
        files[key] = Path(value).expanduser()
        if not files[key].exists():
            raise DataError(f"protocol.data has {entry}, and there is no file {value}")
    return files
