"""How a run of tuning begins: what it would do, and whether all processes of the job see the same of it."""

from __future__ import annotations

from dataclasses import replace

from accelerate import Accelerator

from biomedllama_cli.engine.accelerator import build_accelerator
from biomedllama_cli.engine.agreement import agree_on_start
from biomedllama_cli.engine.run_folder import RunStart, plan_start
from biomedllama_cli.recipes.tuning_plan import TuningPlan
from biomedllama_cli.recipes.tuning_report import SeedRun, load_seed_run


def describe_start(plan: TuningPlan) -> SeedRun:
    """Return what a run would do."""
    start = plan.start
    return SeedRun(
        seed=plan.seed,
        status="would continue" if start.checkpoint else "would train",
        run_folder=start.folder,
        steps=plan.data.total_steps,
        real_share=plan.data.real_share(),
        resumed_step=start.progress.step if start.progress else None,
    )


def join(plan: TuningPlan) -> tuple[TuningPlan, Accelerator]:
    """Join the job, and return the run as all its processes see it.

    Raises:
        OutputError: they see different checkpoints.
    """
    folder, settings = plan.start.folder, plan.every_setting
    accelerator = build_accelerator(plan.settings.parallel, plan.settings.numerics)

    def describe_end(start: RunStart) -> str:
        report = read_end(start)
        if report is None:
            return ""
        return " of a finished run" + ", merged" * is_merged(report)

    start = agree_on_start(
        plan.start,
        lambda: plan_start(folder, plan.job, resume=settings["resume"], overwrite=settings["overwrite"]),
        describe_end,
    )
    return replace(plan, start=start), accelerator


def read_end(start: RunStart) -> SeedRun | None:
    """Return the report of the same run, where its folder holds its end already."""
    if start.replaces or start.progress is None:
        return None
    report = load_seed_run(start.folder)
    return report if report is not None and report.checkpoint and report.checkpoint.is_dir() else None


def is_merged(report: SeedRun) -> bool:
    """Say whether a run that has ended has its adapters merged into a model."""
    return report.merged is not None and report.merged.is_dir()
