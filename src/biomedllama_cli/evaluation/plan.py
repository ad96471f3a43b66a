"""What an evaluation will read, worked out from its settings before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.settings.evaluate import ProtocolSettings
from biomedllama_cli.tasks.catalogue import (
    TASKS,
    LoadedDocuments,
    LoadedQuestions,
    QuestionTask,
    TextTask,
    load_documents,
    load_questions,
)
from biomedllama_cli.tasks.fewshot import draw_examples
from biomedllama_cli.tasks.hub import HubSplit

TRAIN_SUFFIX = ".train"


@dataclass(frozen=True)
class TaskPlan:
    """One task and the local files it reads instead of the hub."""

    task: QuestionTask | TextTask
    shots: int
    test_file: Path | None
    train_file: Path | None


def plan_tasks(settings: ProtocolSettings) -> list[TaskPlan]:
    """Resolve `task` and `data` into one plan per task, in the order asked for.

    Raises:
        SettingsError: an entry of `data` is malformed, given twice or for a task that is not asked for.
        DataError: a named file does not exist.
    """
    names = list(dict.fromkeys(settings.task))
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
                f"protocol.data names the task {name!r}, which does not exist", f"Tasks: {', '.join(TASKS)}."
            )
        if name not in names:
            raise SettingsError(
                f"protocol.data has a file for {name}, which is not among the tasks asked for",
                f"Add --task {name}.",
            )
        if key != name and isinstance(TASKS[name], TextTask):
            raise SettingsError(f"protocol.data has {key}, but running text takes no few-shot examples")
        if key in files:
            raise SettingsError(f"protocol.data names {key} twice; one file per task is read")
        if key != name and not settings.shots:
            raise SettingsError(
                f"protocol.data has {key}, the pool of few-shot examples, but protocol.shots is 0",
                "Add --shots N, or leave the pool out.",
            )
        files[key] = Path(value).expanduser()
        if not files[key].is_file():
            raise DataError(f"protocol.data has {entry}, and there is no file {value}")
    tasks = [TASKS[name] for name in names]
    if settings.shots and not any(isinstance(task, QuestionTask) for task in tasks):
        raise SettingsError(
            f"protocol.shots is {settings.shots}, but running text takes no few-shot examples",
            "Leave --shots out.",
        )
    return [
        TaskPlan(
            task,
            settings.shots if isinstance(task, QuestionTask) else 0,
            files.get(task.name),
            files.get(task.name + TRAIN_SUFFIX),
        )
        for task in tasks
    ]


def load_task(plan: TaskPlan) -> LoadedQuestions | LoadedDocuments:
    """Read what a task needs.

    Raises:
        DataError: a file is missing, broken or of another task.
        UnavailableError: the hub is needed and cannot be reached.
    """
    if isinstance(plan.task, QuestionTask):
        return load_questions(
            plan.task, shots=plan.shots, test_file=plan.test_file, train_file=plan.train_file
        )
    return load_documents(plan.task, test_file=plan.test_file)


def describe_input(plan: TaskPlan, seed: int) -> tuple[str, int | None]:
    """Return where a task's data is and, where that is here, its number of items: read and checked as in a run.

    Raises:
        DataError: a local file is broken or of another task, or has too few questions to draw from.
    """
    place = plan.test_file or plan.task.test
    if isinstance(place, HubSplit):
        return f"hub: {place}", None
    loaded = load_task(plan)
    if isinstance(loaded, LoadedQuestions):
        draw_examples(loaded.items, loaded.pool, plan.shots, seed)
    return str(place), len(loaded.items)
