"""Train a model on examples: what `finetune` and `instruct` share. They differ in their data and masks alone."""

from __future__ import annotations

import gc
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from biomedllama_cli.engine.accelerator import build_accelerator
from biomedllama_cli.engine.checkpoint import REPORT_FILE, RunFolder, name_checkpoint
from biomedllama_cli.engine.loop import Loop, LoopSettings, Tally
from biomedllama_cli.engine.metrics import METRICS_FILE, iter_metrics
from biomedllama_cli.engine.run_folder import open_run_folder, write_atomically
from biomedllama_cli.models.adapters import add_adapter, load_adapter_weights, load_base, merge_adapter
from biomedllama_cli.models.description import describe_model
from biomedllama_cli.recipes.pretrain_report import read_versions
from biomedllama_cli.recipes.training import (
    build_loop_settings,
    build_trainee,
    choose_attention,
    open_progress,
)
from biomedllama_cli.recipes.tuning_plan import TuningPlan
from biomedllama_cli.recipes.tuning_report import SeedRun, load_seed_run
from biomedllama_cli.report.plots import plot_loss_curve

logger = logging.getLogger(__name__)

LOSS_CURVE_FILE, MERGED_FOLDER, FILES_FOLDER = "loss_curve.png", "merged", "checkpoint_files"


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


def find_finished_run(plan: TuningPlan) -> SeedRun | None:
    """Return the report of the same run, where its folder holds its end already."""
    start = plan.start
    if start.replaces or start.progress is None:
        return None
    report = load_seed_run(start.folder)
    if report is None or report.checkpoint is None or not report.checkpoint.is_dir():
        return None
    merges = plan.settings.adapter.merge and plan.settings.adapter.method != "full"
    if merges and (report.merged is None or not report.merged.is_dir()):
        return None
    logger.info("%s is finished: nothing to do", start.folder)
    return report.model_copy(update={"status": "already trained"})


def tune(plan: TuningPlan) -> tuple[SeedRun, dict[str, Any]]:
    """Train one run to its end, and return its report with the facts of the model.

    Raises:
        ModelError: the model cannot be used, or a loss is not finite.
        Resumable: a signal stopped the run after saving.
    """
    began, settings = time.perf_counter(), plan.settings
    accelerator = build_accelerator(settings.parallel, settings.numerics)
    torch.manual_seed(plan.seed + accelerator.process_index)  # dropout, in models that have it
    model = build_model(plan, accelerator)
    description = describe_model(model)
    facts = {
        "parameters": description.parameters,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "device": accelerator.device.type,
        "world_size": accelerator.num_processes,
    }
    trainee = build_trainee(accelerator, model, settings, plan.start.checkpoint)
    loop_settings = build_loop_settings(settings, description, accelerator)
    accelerator.wait_for_everyone()  # every rank has looked at the run folder before rank 0 changes it
    if accelerator.is_main_process:
        logger.info("%.1f %% of the positions are tokens of examples", 100 * plan.data.real_share())
    with open_for_writing(accelerator, plan):
        accelerator.wait_for_everyone()
        with open_progress(
            accelerator, f"{plan.command}, seed {plan.seed}", plan.data.total_steps
        ) as progress:
            loop = Loop(
                trainee, plan.data, build_run_folder(plan), choose_best(loop_settings, plan), progress
            )
            tally = loop.run()
        del trainee, loop, model
        free_memory(accelerator)
        checkpoint = choose_checkpoint(plan, tally)
        if accelerator.is_main_process:
            finish(plan, tally, checkpoint, time.perf_counter() - began)
        accelerator.wait_for_everyone()
    report = load_seed_run(plan.start.folder)
    assert report is not None
    return report, facts


def build_model(plan: TuningPlan, accelerator: Accelerator) -> PreTrainedModel:
    """Load the base model or the checkpoint that is continued, with adapters where they are trained."""
    settings, checkpoint = plan.settings, plan.start.checkpoint
    method = settings.adapter.method
    model = load_base(
        str(checkpoint) if checkpoint and method == "full" else plan.pupil.source,
        method,
        device=accelerator.device,
        precision=settings.numerics.precision,
        attention=choose_attention(settings.numerics, accelerator.device),
        vocabulary_size=plan.pupil.tokenizer.vocabulary_size,
    )
    if method != "full":
        add_adapter(model, settings.adapter, seed=plan.seed, base=plan.pupil.source)
        if checkpoint is not None:
            load_adapter_weights(model, checkpoint, hash_base=accelerator.is_main_process)
    return model


def choose_best(settings: LoopSettings, plan: TuningPlan) -> LoopSettings:
    """Return the loop's settings, with the search for the best checkpoint where examples are held out."""
    if plan.data.validator is None:
        return settings
    return replace(settings, keep_best=True, patience=plan.settings.duration.patience)


def choose_checkpoint(plan: TuningPlan, tally: Tally) -> Path:
    """Return the best checkpoint, or the last where nothing is held out."""
    assert tally.checkpoint is not None
    if plan.data.validator is None or tally.best.step is None:
        return tally.checkpoint
    return name_checkpoint(plan.start.folder, tally.best.step)


def finish(plan: TuningPlan, tally: Tally, checkpoint: Path, wall_seconds: float) -> None:
    """Draw the loss curve, merge the adapters where that is asked for, and write the run's report."""
    folder, adapter = plan.start.folder, plan.settings.adapter
    plot_loss_curve(folder / METRICS_FILE, folder / LOSS_CURVE_FILE)
    merged = None
    if adapter.merge and adapter.method != "full":
        merged = folder / MERGED_FOLDER
        merge_adapter(checkpoint, merged)
        plan.lessons.template.save(merged)
        plan.write_files(merged, "merged")
    elif adapter.merge:
        logger.warning("all weights were trained: there is nothing to merge, the checkpoint is a whole model")
    lines = list(iter_metrics(folder / METRICS_FILE))
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    looks = [line for line in lines if "validation/loss" in line]
    report = SeedRun(
        seed=plan.seed,
        status="trained",
        run_folder=folder,
        checkpoint=checkpoint,
        merged=merged,
        steps=plan.data.total_steps,
        real_share=plan.data.real_share(),
        steps_done=tally.step,
        resumed_step=plan.start.progress.step if plan.start.progress else None,
        best_step=tally.best.step,
        validation_loss_before=looks[0]["validation/loss"] if looks and looks[0]["step"] == 0 else None,
        validation_loss_best=tally.best.loss if tally.best.step else None,
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        target_tokens_seen=tally.tokens_seen,
        tokens_per_second=tally.trained_tokens / tally.train_seconds if tally.train_seconds else None,
        wall_seconds=wall_seconds,
        loss_curve=folder / LOSS_CURVE_FILE,
    )
    write_atomically(folder / REPORT_FILE, report.model_dump_json(indent=2) + "\n")


def free_memory(accelerator: Accelerator) -> None:
    """Give back what the trained model held: the next seed's, or the evaluation's, needs the room."""
    accelerator.free_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def build_run_folder(plan: TuningPlan) -> RunFolder:
    """Return where the loop writes and what it continues."""
    start = plan.start
    return RunFolder(
        start.folder,
        start.folder / FILES_FOLDER,
        plan.job.order,
        start.checkpoint,
        start.progress,
        same_command_restarts=plan.every_setting["resume"] != "auto",
    )


def open_for_writing(accelerator: Accelerator, plan: TuningPlan) -> AbstractContextManager[None]:
    """Open the run folder on rank 0; the other ranks write nothing."""
    return open_with_files(plan) if accelerator.is_main_process else nullcontext()


@contextmanager
def open_with_files(plan: TuningPlan) -> Iterator[None]:
    """Open the run folder, and put what goes into every checkpoint beside the weights into it."""
    facts = {
        "settings": plan.every_setting,
        "versions": read_versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["biomedllama", *sys.argv[1:]]),
    }
    with open_run_folder(plan.start, plan.job, facts):
        folder = plan.start.folder / FILES_FOLDER
        plan.pupil.tokenizer.save(folder)
        plan.lessons.template.save(folder)
        plan.write_files(folder, "checkpoint")
        shutil.copytree(plan.lessons.reports, plan.start.folder, dirs_exist_ok=True)
        yield
