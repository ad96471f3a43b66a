"""Read what an evaluation asks: all of it before a model is loaded, so that a broken file is found at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from biomedllama_cli.errors import DataError, UnavailableError
from biomedllama_cli.evaluation.contamination import Contamination, find_contaminated
from biomedllama_cli.evaluation.plan import Plan, TaskPlan
from biomedllama_cli.evaluation.profiles import DrawnTask, Profile, draw_task
from biomedllama_cli.recipes.evaluate_report import Planned
from biomedllama_cli.settings.evaluate import EvaluateSettings
from biomedllama_cli.tasks.audit import drop_defective
from biomedllama_cli.tasks.catalogue import (
    LoadedDocuments,
    LoadedQuestions,
    QuestionTask,
    load_documents,
    load_questions,
)
from biomedllama_cli.tasks.fewshot import DrawnQuestion
from biomedllama_cli.tasks.hub import HubSplit
from biomedllama_cli.tasks.question import Question

logger = logging.getLogger(__name__)

Loaded = LoadedQuestions | LoadedDocuments


@dataclass(frozen=True)
class Inputs:
    """What was read.

    Attributes:
        tasks: what each task has, in the plan's order.
        contamination: by task, which of its questions the corpus holds.
        missing: by task, why it could not be read, where that is not the end.
    """

    tasks: tuple[tuple[TaskPlan, Loaded], ...]
    contamination: dict[str, Contamination] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def load_inputs(plan: Plan, settings: EvaluateSettings, *, tolerant: bool = False) -> Inputs:
    """Read the data of all tasks and check that every profile can draw its examples.

    Args:
        plan: what is scored.
        settings: of the command.
        tolerant: go on without a task whose data is not to be had (a published row has six).

    Raises:
        DataError: a file is missing, broken or of another task, or there is nothing to draw from.
        UnavailableError: the hub is needed and cannot be reached.
    """
    tasks: list[tuple[TaskPlan, Loaded]] = []
    contamination: dict[str, Contamination] = {}
    missing: dict[str, str] = {}
    for one in plan.tasks:
        try:
            loaded = load_task(one)
        except UnavailableError as error:
            if not tolerant:
                raise
            logger.warning("%s is left out: %s", one.task.name, error.message)
            missing[one.task.name] = error.message
            continue
        if isinstance(loaded, LoadedQuestions):
            _tell_defects(loaded)
            drawn = [draw_questions(one, loaded, profile, settings) for profile in one.profiles]
            _tell_missing_items(one, drawn, settings)
            if settings.protocol.corpus is not None:
                found = _search_corpus(settings.protocol.corpus, one, loaded)
                for profile, task in zip(one.profiles, drawn, strict=True):
                    leave_out_contaminated(task.questions, profile, one.task.name, found)
                contamination[one.task.name] = found
                loaded = replace(loaded, items=tuple(_mark(item, found) for item in loaded.items))
        tasks.append((one, loaded))
    if missing and not tasks:
        raise UnavailableError(
            "no task of the row could be read", "Give local files: --data TASK=FILE; see --task list."
        )
    return Inputs(tuple(tasks), contamination, missing)


def load_task(plan: TaskPlan) -> Loaded:
    """Read what a task needs.

    Raises:
        DataError: a file is missing, broken or of another task.
        UnavailableError: the hub is needed and cannot be reached.
    """
    if isinstance(plan.task, QuestionTask):
        loaded = load_questions(
            plan.task, shots=plan.shots, test_file=plan.test_file, train_file=plan.train_file
        )
        _tell_leak(plan, loaded)
        return loaded
    return load_documents(plan.task, test_file=plan.test_file)


def keep_sound(loaded: LoadedQuestions, settings: EvaluateSettings) -> tuple[Question, ...]:
    """Return the items of a task, without defective ones where that was asked for."""
    if not settings.protocol.drop_defective:
        return loaded.items
    return drop_defective(loaded.items, loaded.defects)


def draw_questions(
    plan: TaskPlan, loaded: LoadedQuestions, profile: Profile, settings: EvaluateSettings
) -> DrawnTask:
    """Choose and order what a profile scores of a task, with its examples.

    Raises:
        DataError: nothing is left to score, or nothing to draw from.
    """
    items = keep_sound(loaded, settings)
    if not items:
        raise DataError(
            f"{plan.task.name}: every item has a defect, and drop_defective leaves none",
            "Run without --drop-defective and read the list of defects.",
        )
    fixed = settings.protocol.draw == "fixed"
    return draw_task(
        profile,
        plan.task.name,
        items,
        loaded.pool,
        shots=plan.shots,
        seed=settings.seed,
        draw="fixed" if fixed else "per question",
    )


def leave_out_contaminated(
    drawn: Sequence[DrawnQuestion], profile: Profile, task_name: str, contamination: Contamination | None
) -> Sequence[DrawnQuestion]:
    """Return what a profile asks of the drawn questions: `clean` asks none that the corpus holds.

    The draws are made for all, so that leaving some out changes none.

    Raises:
        DataError: the corpus holds all of them.
    """
    if contamination is None or profile.name != "clean":
        return drawn
    held = set(contamination.contaminated)
    kept = [each for each in drawn if each[0].id not in held]
    if not kept:
        raise DataError(
            f"{task_name}: the corpus holds all {len(drawn)} questions that the profile {profile.name} would ask",
            "Evaluate without --corpus, or train on a corpus made with `prepare --benchmark`.",
        )
    return kept


def describe_inputs(plan: Plan, settings: EvaluateSettings) -> tuple[Planned, ...]:
    """Return what would be scored; local files are read and checked as in a run, the hub is not asked."""
    planned = []
    for one in plan.tasks:
        place: Path | HubSplit | None = one.test_file or one.task.test
        records = None
        if isinstance(place, HubSplit):
            where = f"hub: {place}"
        else:
            loaded = load_task(one)  # says what is missing where there is no place
            if isinstance(loaded, LoadedQuestions):
                drawn = [draw_questions(one, loaded, profile, settings) for profile in one.profiles]
                _tell_missing_items(one, drawn, settings)
            where, records = str(place), len(loaded.items)
        profiles = tuple(str(profile) for profile in one.profiles)
        planned.append(
            Planned(
                task=one.task.name,
                profiles=profiles,
                shots=one.shots,
                place=where,
                records=records,
                limit=settings.protocol.limit,
            )
        )
    for asked, name in plan.harness.items():
        file = plan.files.get(asked)
        planned.append(
            Planned(
                task=asked,
                profiles=("harness",),
                shots=settings.protocol.shots,
                place=f"lm-eval: {name}" + (f", rows of {file}" if file else ""),
                records=None,
                limit=settings.protocol.limit,
            )
        )
    return tuple(planned)


def _tell_leak(plan: TaskPlan, loaded: LoadedQuestions) -> None:
    """Warn where examples come from the scored questions though the task has a training part."""
    leaking = [profile.name for profile in plan.profiles if profile.leaks]
    if plan.shots and loaded.pool is None and loaded.task.train is not None and leaking:
        logger.warning(
            "%s: no training file was given, so profile %s draws the %d few-shot %s from the scored questions "
            "themselves (never the question at hand). This is not the published draw: give --data %s.train=FILE.",
            plan.task.name,
            ", ".join(leaking),
            plan.shots,
            "example" if plan.shots == 1 else "examples",
            plan.task.name,
        )


def _tell_defects(loaded: LoadedQuestions) -> None:
    if loaded.defects:
        kinds = sorted({defect.kind for defect in loaded.defects})
        logger.warning(
            "%s: defects found in its items: %d (%s); they are listed in results.json, and --drop-defective leaves "
            "such items out",
            loaded.task.name,
            len(loaded.defects),
            ", ".join(kinds),
        )


def _tell_missing_items(plan: TaskPlan, drawn: Sequence[DrawnTask], settings: EvaluateSettings) -> None:
    if settings.protocol.drop_defective:  # what is left out by order is no missing part
        return
    for profile, task in zip(plan.profiles, drawn, strict=True):
        published = profile.count_published_items(plan.task.name)
        if published is not None and len(task.questions) < published:
            _tell_part(plan.task.name, profile.name, len(task.questions), published)


@cache
def _tell_part(task: str, profile: str, count: int, published: int) -> None:
    """Say once per process, not of each model, that a part of a test set is scored."""
    logger.warning(
        "%s: profile %s has %s of the %s items of the published test set; published numbers are about all of them",
        task,
        profile,
        f"{count:,}",
        f"{published:,}",
    )


def _mark(item: Question, found: Contamination) -> Question:
    """Return an item with what was found of it in the corpus as a group, so that results are split by it."""
    if item.id in found.contaminated:
        finding = "contaminated"
    else:
        finding = "not testable" if item.id in found.untestable else "clean"
    return replace(item, groups=(*item.groups, ("contamination", finding)))


def _search_corpus(corpus: Path, plan: TaskPlan, loaded: LoadedQuestions) -> Contamination:
    found = find_contaminated(corpus, loaded.items, plan.task.name)
    logger.info("%s: %s", plan.task.name, found.describe())
    return found
