"""`biomedllama finetune`: tune a model on questions, with several seeds, and score it before and after."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from biomedllama_cli.engine.accelerator import choose_device_type
from biomedllama_cli.engine.order import epoch_permutation
from biomedllama_cli.engine.run_folder import plan_start
from biomedllama_cli.engine.sharding import World
from biomedllama_cli.engine.tracking import check_trackers
from biomedllama_cli.engine.tuning_data import order_examples
from biomedllama_cli.errors import Resumable
from biomedllama_cli.instructions.decontamination import Decontaminated, decontaminate
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.finetuning import question_example
from biomedllama_cli.instructions.held_out import split_validation
from biomedllama_cli.instructions.training_questions import load_training_questions, write_audit
from biomedllama_cli.models.adapters import check_method
from biomedllama_cli.models.tuning_facts import TuningOrigin, write_tuning_facts
from biomedllama_cli.recipes.evaluate_sources import model_name
from biomedllama_cli.recipes.finetune_report import FinetuneReport
from biomedllama_cli.recipes.finetune_tests import TestQuestions, load_test, score_before_and_after
from biomedllama_cli.recipes.training import check_numerics, plan_world
from biomedllama_cli.recipes.tuning import find_finished_run, tune
from biomedllama_cli.recipes.tuning_checks import check_patience, check_targets, fit_rows
from biomedllama_cli.recipes.tuning_inputs import (
    MaskReport,
    build_mask_report,
    describe_decontamination,
    encode_lessons,
    find_benchmarks,
)
from biomedllama_cli.recipes.tuning_plan import (
    Lessons,
    Pupil,
    TuningPlan,
    build_data,
    describe_facts,
    describe_job,
    load_pupil,
)
from biomedllama_cli.recipes.tuning_report import SeedRun
from biomedllama_cli.recipes.tuning_start import describe_start, join
from biomedllama_cli.settings.finetune import FinetuneSettings

__all__ = ["FinetuneReport", "finetune"]

logger = logging.getLogger(__name__)


def finetune(settings: FinetuneSettings, *, dry_run: bool = False) -> FinetuneReport | MaskReport:
    """Tune a model on the questions of a task, once per seed, and score it before and after.

    Args:
        settings: the whole tree of this command.
        dry_run: say what would be done; no weights are loaded and nothing is written.

    Raises:
        SettingsError: the settings contradict each other.
        DataError: a file is missing, broken or of another task, or nothing is left to train on.
        ModelError: the model cannot be used, or a loss is not finite.
        UnavailableError: a hub, a device or a package is not to be had.
        OutputError: a run folder holds something else.
        Resumable: stopped by a signal after saving; the same command continues.
    """
    check_trackers(settings.monitor.track)
    check_numerics(settings.numerics)
    world = plan_world(settings.parallel, dry_run=dry_run)
    check_method(settings.adapter.method, choose_device_type(settings.parallel), world_size=world.world_size)
    pupil = load_pupil(settings.model, settings.workspace, "finetune")
    check_targets(pupil, settings.adapter)
    settings = fit_rows(settings, pupil)
    test = load_test(settings.questions)
    with tempfile.TemporaryDirectory() as reports:
        lessons, task = load_lessons(settings, pupil, test, Path(reports))
        if settings.show_masks:
            return build_mask_report(lessons, pupil, range(len(lessons.train))[: settings.show_masks])
        check_patience(settings, lessons.held_out)
        folder = settings.output_dir or (
            settings.workspace / "runs" / f"finetune-{task}-{model_name(pupil.source)}"
        )
        plans = [
            plan_seed(settings, pupil, lessons, world, folder=folder, seed=seed)
            for seed in settings.seed_list
        ]
        facts = describe_facts(settings, pupil, lessons, world)
        facts |= {"task": task, "settings": settings.model_dump(mode="json")}
        if dry_run:
            return FinetuneReport(dry_run=True, runs=tuple(map(describe_start, plans)), **facts)
        runs, measured = train_seeds(plans)
        facts |= measured
    gains = score_before_and_after(settings, pupil, test, runs, folder / "evaluation") if test else {}
    return FinetuneReport(runs=tuple(runs), **facts, **gains)


def train_seeds(plans: Sequence[TuningPlan]) -> tuple[list[SeedRun], dict[str, Any]]:
    """Train the runs of all seeds one after the other, and return their reports with the facts of the model."""
    runs: list[SeedRun] = []
    facts: dict[str, Any] = {}
    for plan in plans:
        plan, accelerator = join(plan)
        finished = find_finished_run(plan, accelerator)
        if finished is None:
            finished, measured = tune_one_of(plan, accelerator, [each.seed for each in plans])
            facts |= measured
        runs.append(finished)
    facts |= {"parameters": runs[0].parameters, "trainable_parameters": runs[0].trainable_parameters}
    return runs, facts


def tune_one_of(
    plan: TuningPlan, accelerator: Accelerator, seeds: Sequence[int]
) -> tuple[SeedRun, dict[str, Any]]:
    """Train the run of one of several seeds.

    Raises:
        Resumable: a signal stopped it after saving; it says which seed that was, and which have not begun.
    """
    try:
        return tune(plan, accelerator)
    except Resumable as stop:
        waiting = [str(seed) for seed in seeds[seeds.index(plan.seed) + 1 :]]
        if len(seeds) == 1:
            raise
        rest = (
            f" Still to be trained: seed{'s' * (len(waiting) > 1)} {', '.join(waiting)}." if waiting else ""
        )
        raise Resumable(f"Seed {plan.seed}: {stop.message}{rest}", stop.hint) from stop


def load_lessons(
    settings: FinetuneSettings, pupil: Pupil, test: TestQuestions | None, reports: Path
) -> tuple[Lessons, str]:
    """Read the training questions, take out what is tested, hold some out, and encode them.

    Returns:
        The lessons, and the name of the task.
    """
    section = settings.questions
    training = load_training_questions(section.task, section.training_file, section.data_version)
    write_audit(training, reports)
    for note in training.audit.notes:
        logger.warning("%s: %s", training.name, note)
    questions = training.questions
    if section.limit is not None and section.limit < len(questions):
        chosen = sorted(epoch_permutation(len(questions), 0, 0)[: section.limit].tolist())
        questions = tuple(questions[place] for place in chosen)
    found = take_out_benchmarks(
        [question_example(question, training.name, "finetuned") for question in questions],
        settings,
        test,
        reports,
    )
    kept = [questions[place] for place in found.places]
    train, held_out = split_validation(kept, section.validation_fraction)
    if section.validation_fraction and not held_out:
        logger.warning(
            "validation_fraction = %g holds out no question, as all are the same or about one context: the last "
            "checkpoint is taken, not the best",
            section.validation_fraction,
        )
    lessons = encode_lessons(
        [question_example(question, training.name, "finetuned") for question in train],
        [question_example(question, training.name, "finetuned") for question in held_out],
        pupil,
        settings,
        reports,
    )
    audit = training.audit
    facts = lessons.facts.model_copy(
        update={
            "defective": audit.unusable | audit.defects,
            "dropped_defective": audit.dropped + sum(audit.unusable.values()),
            **describe_decontamination(found.report),
        }
    )
    return Lessons(lessons.train, lessons.held_out, facts, lessons.template, reports), training.name


def take_out_benchmarks(
    examples: Sequence[Example], settings: FinetuneSettings, test: TestQuestions | None, reports: Path
) -> Decontaminated:
    """Return the examples without those that hold benchmark items, unless the settings say otherwise."""
    section = settings.decontamination
    looked_for = find_benchmarks(section, [test.loaded] if test is not None else [])
    return decontaminate(examples, looked_for, mode=section.decontaminate, folder=reports)


def plan_seed(
    settings: FinetuneSettings, pupil: Pupil, lessons: Lessons, world: World, *, folder: Path, seed: int
) -> TuningPlan:
    """Lay out the run of one seed: its own folder where there are several."""
    order = order_examples(len(lessons.train), epochs=settings.duration.epochs, seed=seed)
    on_cuda = choose_device_type(settings.parallel) == "cuda"
    job = describe_job("finetune", settings, pupil, lessons, order, seed=seed)
    own = folder if len(settings.seed_list) == 1 else folder / f"seed-{seed}"
    origin = TuningOrigin(lessons.template.name, settings.rows.train_on, pupil.source)
    return TuningPlan(
        command="finetune",
        settings=settings,
        every_setting=settings.model_dump(mode="json"),
        pupil=pupil,
        seed=seed,
        data=build_data(lessons, pupil, settings, order, world, on_cuda=on_cuda),
        job=job,
        start=plan_start(own, job, resume=settings.resume, overwrite=settings.overwrite),
        lessons=lessons,
        write_files=lambda files, _: write_tuning_facts(files, origin),
    )
