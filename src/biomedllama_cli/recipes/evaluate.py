"""`biomedllama evaluate`: ask models the published tasks by named protocols, and say what the numbers mean."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from biomedllama_cli.errors import SettingsError, UserError
from biomedllama_cli.evaluation.cells import Results
from biomedllama_cli.evaluation.comparison import compare
from biomedllama_cli.evaluation.journal import remove_journal
from biomedllama_cli.evaluation.output import check_output_folder
from biomedllama_cli.evaluation.plan import Plan, plan_tasks
from biomedllama_cli.evaluation.protocol_difference import compare_profiles
from biomedllama_cli.evaluation.published import PublishedRow, find_row
from biomedllama_cli.evaluation.reproduction import PUBLISHED_SEED, RunRequest, judge, settings_of
from biomedllama_cli.evaluation.reproduction_report import Reproduction
from biomedllama_cli.evaluation.thresholds import check_threshold_names, check_thresholds, parse_thresholds
from biomedllama_cli.recipes.evaluate_inputs import Inputs, describe_inputs, load_inputs
from biomedllama_cli.recipes.evaluate_report import EvaluateReport, Evaluation
from biomedllama_cli.recipes.evaluate_sources import choose_folders, find_models, was_interrupted_after
from biomedllama_cli.report.evaluation_plots import check_picture, plot_results
from biomedllama_cli.settings.evaluate import EvaluateSettings, ProtocolSettings
from biomedllama_cli.tasks.catalogue import QuestionTask, TextTask

if TYPE_CHECKING:
    from biomedllama_cli.recipes.evaluate_model import Evaluated

__all__ = ["EvaluateReport", "evaluate"]

logger = logging.getLogger(__name__)


def evaluate(settings: EvaluateSettings, *, dry_run: bool = False) -> EvaluateReport:
    """Score models on the tasks asked for, write a results folder for each, and compare them.

    Args:
        settings: the whole tree of this command.
        dry_run: say what would be scored; load no model and write nothing.

    Raises:
        SettingsError: the settings contradict each other.
        DataError: a file is missing, broken or of another task.
        ModelError: there is no model, or it cannot be used.
        UnavailableError: a hub or a device is not to be had.
        OutputError: an output folder holds something.
        Resumable: stopped by a signal; the same command continues.
    """
    thresholds = parse_thresholds(settings.output.fail_under)
    if settings.output.plot is not None:
        check_picture(settings.output.plot)
    row = None if settings.reproduce is None else find_row(settings.reproduce)
    settings, plan, sources = _plan(settings, row)
    check_threshold_names(
        thresholds,
        questions=[one.task.name for one in plan.tasks if isinstance(one.task, QuestionTask)]
        + list(plan.harness),
        texts=[one.task.name for one in plan.tasks if isinstance(one.task, TextTask)],
        profiles=settings.protocol.profile,
    )
    output_dirs = choose_folders(settings, sources)
    for folder in output_dirs:
        check_output_folder(folder, overwrite=settings.overwrite or was_interrupted_after(folder))
    report = EvaluateReport(models=tuple(sources), output_dirs=tuple(map(str, output_dirs)))
    if dry_run:
        planned = describe_inputs(plan, settings)
        return report.model_copy(update={"dry_run": True, "planned": planned})

    from biomedllama_cli.recipes.evaluate_model import evaluate_model  # loads torch

    inputs = load_inputs(
        plan, settings, tolerant=row is not None
    )  # before any model: a broken file is found at once
    evaluated = [
        evaluate_model(source, plan, inputs, settings, folder)
        for source, folder in zip(sources, output_dirs, strict=True)
    ]
    if evaluated[0].rank != 0:  # the first process has written the folders, and tells
        return report
    conclusions = _conclude(settings, row, inputs, evaluated)
    conclusions["failed_thresholds"] = check_thresholds(thresholds, [one.results for one in evaluated])
    for one in evaluated:  # not before: with several models, each of them is found again until all are done
        remove_journal(one.work)
    return report.model_copy(update=conclusions).in_form(settings.output.format)


def _plan(settings: EvaluateSettings, row: PublishedRow | None) -> tuple[EvaluateSettings, Plan, list[str]]:
    """Return the settings with what a published row fixes, what is scored, and by which models."""
    if row is None:
        return settings, plan_tasks(settings.protocol), find_models(settings)
    requests = settings_of(row, settings.model, tasks=settings.protocol.task or None)
    request = requests[0]
    _refuse_other_protocol(settings, request)
    protocol = settings.protocol.model_copy(
        update={
            "task": request.tasks,
            "profile": (request.profile,),
            "context_length": request.context_length,
            "shots": max(request.shots.values()),
            "template": "plain",
        }
    )
    settings = settings.model_copy(update={"protocol": protocol, "seed": PUBLISHED_SEED})
    plan = plan_tasks(protocol, request.shots)
    return (
        settings,
        plan,
        find_models(settings.model_copy(update={"model": tuple(one.model for one in requests)})),
    )


def _refuse_other_protocol(settings: EvaluateSettings, request: RunRequest) -> None:
    """Refuse settings that a published row fixes otherwise; their defaults were not asked for."""
    asked, default = settings.protocol, ProtocolSettings()
    fixed = (
        ("protocol.profile", asked.profile, default.profile, (request.profile,)),
        ("protocol.shots", asked.shots, default.shots, max(request.shots.values())),
        ("protocol.context_length", asked.context_length, default.context_length, request.context_length),
        ("protocol.draw", asked.draw, default.draw, default.draw),
        ("protocol.template", asked.template, default.template, "plain"),
        ("seed", settings.seed, PUBLISHED_SEED, PUBLISHED_SEED),
    )
    for name, value, unasked, published in fixed:
        if value not in (unasked, published):
            shown = ", ".join(value) if isinstance(value, tuple) else value
            raise SettingsError(
                f"{name} is {shown}, but reproduce runs a published row, which fixes it",
                "Leave it out, or evaluate without --reproduce.",
            )


def _conclude(
    settings: EvaluateSettings, row: PublishedRow | None, inputs: Inputs, evaluated: Sequence[Evaluated]
) -> dict[str, object]:
    """Return what a report says of the results beside the results."""
    results = [one.results for one in evaluated]
    conclusions: dict[str, object] = {
        "evaluations": tuple(Evaluation(output_dir=str(one.folder), results=one.results) for one in evaluated)
    }
    if len(settings.protocol.profile) > 1:
        conclusions["protocols"] = tuple(
            compare_profiles(one.results, one.folder) for one in evaluated if _shares_tasks(one.results)
        )
    if len(evaluated) > 1:
        try:
            conclusions["comparison"] = compare([one.folder for one in evaluated])
        except UserError as error:  # the results stand; that they cannot be compared is news, not an end
            logger.warning("the models are not compared: %s", error.message)
    if row is not None:
        conclusions["reproductions"] = tuple(_judge(row, one, inputs) for one in evaluated)
    if settings.output.plot is not None:
        plot_results(results, settings.output.plot)
        conclusions["plot"] = str(settings.output.plot)
    return conclusions


def _judge(row: PublishedRow, one: Evaluated, inputs: Inputs) -> Reproduction:
    return judge(row, one.results, one.samples, one.precision_error, reasons=inputs.missing)


def _shares_tasks(results: Results) -> bool:
    tasks = [cell.task for cell in results.questions]
    return len(set(tasks)) < len(tasks)
