"""`biomedllama instruct`: tune a model to follow instructions, on a mixture of sources drawn with a seed."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from biomedllama_cli.engine.accelerator import choose_device_type
from biomedllama_cli.engine.run_folder import plan_start
from biomedllama_cli.engine.sharding import World
from biomedllama_cli.engine.tracking import check_trackers
from biomedllama_cli.instructions.card import ModelFacts, write_model_card
from biomedllama_cli.models.adapters import check_method
from biomedllama_cli.models.tuning_facts import TuningOrigin, write_tuning_facts
from biomedllama_cli.recipes.command_line import show_command_line
from biomedllama_cli.recipes.evaluate_sources import model_name
from biomedllama_cli.recipes.instruct_mixture import DrawnLessons, draw_lessons
from biomedllama_cli.recipes.instruct_report import InstructReport
from biomedllama_cli.recipes.pretrain_report import read_versions
from biomedllama_cli.recipes.training import check_numerics, plan_world
from biomedllama_cli.recipes.tuning import find_finished_run, tune
from biomedllama_cli.recipes.tuning_checks import check_patience, check_targets, fit_rows
from biomedllama_cli.recipes.tuning_inputs import MaskReport, build_mask_report
from biomedllama_cli.recipes.tuning_plan import (
    Holds,
    Pupil,
    TuningPlan,
    build_data,
    describe_facts,
    describe_job,
    load_pupil,
)
from biomedllama_cli.recipes.tuning_report import NOT_SEARCHED
from biomedllama_cli.recipes.tuning_start import describe_start, join
from biomedllama_cli.settings.instruct import InstructSettings

__all__ = ["InstructReport", "instruct"]


def instruct(settings: InstructSettings, *, dry_run: bool = False) -> InstructReport | MaskReport:
    """Tune a model on a mixture of sources, or go on where the run folder's newest checkpoint stands.

    Args:
        settings: the whole tree of this command.
        dry_run: draw the mixture and say what would be done; no weights are loaded and nothing is written.

    Raises:
        SettingsError: the settings contradict each other.
        DataError: a source is broken, or nothing is left to train on.
        ModelError: the model cannot be used, or a loss is not finite.
        UnavailableError: a source, a hub, a device or a package is not to be had.
        OutputError: the run folder holds something else.
        Resumable: stopped by a signal after saving; the same command continues.
    """
    check_trackers(settings.monitor.track)
    check_numerics(settings.numerics)
    world = plan_world(settings.parallel, dry_run=dry_run)
    check_method(settings.adapter.method, choose_device_type(settings.parallel), world_size=world.world_size)
    pupil = load_pupil(settings.model, settings.workspace, "instruct")
    check_targets(pupil, settings.adapter)
    settings = fit_rows(settings, pupil)
    with tempfile.TemporaryDirectory() as reports:
        drawn = draw_lessons(settings, pupil, Path(reports))
        if settings.show_masks:
            drawn_first = list(dict.fromkeys(drawn.order.tolist()))[: settings.show_masks]
            return build_mask_report(drawn.lessons, pupil, drawn_first)
        check_patience(settings, drawn.lessons.held_out)
        plan = plan_run(settings, pupil, drawn, world)
        facts = describe_facts(settings, pupil, drawn.lessons, world)
        facts |= {
            "mixture": drawn.manifest,
            "without_example": drawn.without_example,
            "settings": settings.model_dump(mode="json"),
        }
        if dry_run:
            return InstructReport(dry_run=True, runs=(describe_start(plan),), **facts)
        plan, accelerator = join(plan)
        run = find_finished_run(plan, accelerator)
        if run is None:
            run, measured = tune(plan, accelerator)
            facts |= measured
        sizes = {"parameters": run.parameters, "trainable_parameters": run.trainable_parameters}
        return InstructReport(runs=(run,), **facts, **sizes)


def plan_run(settings: InstructSettings, pupil: Pupil, drawn: DrawnLessons, world: World) -> TuningPlan:
    """Lay out the run."""
    mixture = drawn.manifest.mixture
    folder = settings.output_dir or (
        settings.workspace / "runs" / f"instruct-{mixture}-{model_name(pupil.source)}"
    )
    job = describe_job("instruct", settings, pupil, drawn.lessons, drawn.order, seed=settings.seed)
    on_cuda = choose_device_type(settings.parallel) == "cuda"

    def write_files(files: Path, holds: Holds) -> None:
        template = drawn.lessons.template.name
        write_tuning_facts(files, TuningOrigin(template, settings.rows.train_on, pupil.source))
        is_adapter = holds == "checkpoint" and settings.adapter.method != "full"
        card = describe_model_card(settings, pupil, drawn)
        write_model_card(files, replace(card, adapter=is_adapter))
        drawn.manifest.write(files)

    return TuningPlan(
        command="instruct",
        settings=settings,
        every_setting=settings.model_dump(mode="json"),
        pupil=pupil,
        seed=settings.seed,
        data=build_data(drawn.lessons, pupil, settings, drawn.order, world, on_cuda=on_cuda),
        job=job,
        start=plan_start(folder, job, resume=settings.resume, overwrite=settings.overwrite),
        lessons=drawn.lessons,
        write_files=write_files,
    )


def describe_model_card(settings: InstructSettings, pupil: Pupil, drawn: DrawnLessons) -> ModelFacts:
    """Return what the card of the tuned model says."""
    facts = drawn.lessons.facts
    notes = []
    if facts.dropped_contaminated:
        one = facts.dropped_contaminated == 1
        what = "example that holds" if one else "examples that hold"
        notes.append(
            f"{facts.dropped_contaminated:,} {what} benchmark questions {'was' if one else 'were'} left out."
        )
    if settings.decontamination.decontaminate == "off":
        notes.append(NOT_SEARCHED)
    if facts.not_looked_for:
        notes.append(
            f"Examples were not searched, or not wholly, for questions of {', '.join(facts.not_looked_for)}."
        )
    return ModelFacts(
        base_model=pupil.source,
        method=settings.adapter.method,
        manifest=drawn.manifest,
        command=show_command_line(),
        versions=read_versions(),
        notes=tuple(notes),
    )
