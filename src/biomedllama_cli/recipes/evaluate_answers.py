"""What `evaluate` answers without a model: lists, comparisons of earlier results, and the leaderboard."""

from __future__ import annotations

from typing import Any, Protocol

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.evaluation.cells import Frozen
from biomedllama_cli.settings.evaluate import EvaluateSettings


class Answer(Protocol):
    """What a command prints."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return everything `--json` prints."""
        ...

    def lines(self) -> list[str]:
        """Return the summary for people."""
        ...


class ListedTask(Frozen):
    """One task: where its data is on the hub, if there, and its few-shot pool."""

    name: str
    kind: str
    data: str | None
    examples: str | None


class TaskList(Frozen):
    """Everything `--task` can name, and the profiles."""

    schema_version: str = "biomedllama.tasks/1"
    tasks: tuple[ListedTask, ...]
    profiles: dict[str, str]

    def lines(self) -> list[str]:
        """Return one line per task and profile."""
        width = max(len(task.name) for task in self.tasks)
        lines = ["Tasks (--task; --data TASK=FILE reads a local file instead):"]
        for task in self.tasks:
            examples = f"; examples from {task.examples}" if task.examples else ""
            lines.append(f"  {task.name:<{width}}  {task.kind}: {task.data or 'a local file'}{examples}")
        lines += ["", "Profiles (--profile):"]
        width = max(map(len, self.profiles))
        return lines + [f"  {name:<{width}}  {summary}" for name, summary in self.profiles.items()]


def answer_without_model(settings: EvaluateSettings) -> Answer | None:
    """Return the answer to what needs no model, or None where models are to be scored.

    Raises:
        SettingsError: several such things are asked for at once, or a list is mixed with names.
        DataError: a results folder cannot be read.
    """
    asked = {
        "protocol.task list": "list" in settings.protocol.task,
        "reproduce list": settings.reproduce == "list",
        "output.compare": bool(settings.output.compare),
        "output.leaderboard": settings.output.leaderboard is not None,
    }
    names = [name for name, given in asked.items() if given]
    if not names:
        return None
    if len(names) > 1:
        raise SettingsError(f"{' and '.join(names)} are asked for at once; each is an answer of its own")
    if asked["protocol.task list"]:
        if len(settings.protocol.task) > 1:
            raise SettingsError(
                "protocol.task has `list` among names of tasks; it shows all tasks and runs none",
                "Give --task list alone.",
            )
        return list_tasks()
    if asked["reproduce list"]:
        from biomedllama_cli.evaluation.published import list_rows

        return list_rows()
    if settings.output.fail_under:
        raise SettingsError(
            f"output.fail_under is given with {'--compare' if asked['output.compare'] else '--leaderboard'}, which "
            "scores nothing that could fail",
            "Give --fail-under where the model is evaluated.",
        )
    if asked["output.compare"]:
        return _compare(settings)
    return _tabulate(settings)


def list_tasks() -> TaskList:
    """Return all tasks, those that only lm-eval has among them, and all profiles."""
    from biomedllama_cli.evaluation.plan import HARNESS_GROUPS, HARNESS_PREFIX
    from biomedllama_cli.evaluation.profiles import PROFILES
    from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask

    tasks = []
    for task in TASKS.values():
        question = isinstance(task, QuestionTask)
        train = task.train if isinstance(task, QuestionTask) else None
        tasks.append(
            ListedTask(
                name=task.name,
                kind="questions" if question else "text",
                data=None if task.test is None else getattr(task.test, "name", None) or str(task.test),
                examples=None if train is None else str(train),
            )
        )
    for name in (*HARNESS_GROUPS, f"{HARNESS_PREFIX}NAME"):
        tasks.append(ListedTask(name=name, kind="lm-eval", data="its own tasks", examples=None))
    profiles = {str(profile): profile.summary for profile in PROFILES.values()}
    return TaskList(tasks=tuple(tasks), profiles=profiles)


def _compare(settings: EvaluateSettings) -> Answer:
    from biomedllama_cli.evaluation.comparison import compare
    from biomedllama_cli.report.comparison_report import ComparisonReport

    comparison = compare(settings.output.compare)
    _draw(settings, list(settings.output.compare))
    plot = settings.output.plot
    return ComparisonReport.of(
        comparison, form=settings.output.format, plot=None if plot is None else str(plot)
    )


def _tabulate(settings: EvaluateSettings) -> Answer:
    from biomedllama_cli.report.leaderboard import build_leaderboard

    assert settings.output.leaderboard is not None
    return build_leaderboard(
        settings.output.leaderboard, format=settings.output.format, plot=settings.output.plot
    )


def _draw(settings: EvaluateSettings, folders: list[Any]) -> None:
    if settings.output.plot is None:
        return
    from biomedllama_cli.evaluation.output import load_results
    from biomedllama_cli.report.evaluation_plots import plot_results

    plot_results([load_results(folder) for folder in folders], settings.output.plot)
