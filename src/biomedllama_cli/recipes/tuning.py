"""Train a model on examples: what `finetune` and `instruct` share. They differ in their data and masks alone."""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from biomedllama_cli.corpus.durable import write_atomically
from biomedllama_cli.engine.checkpoint import RunFolder
from biomedllama_cli.engine.checkpoint_folder import explain_broken
from biomedllama_cli.engine.loop import Loop, LoopSettings, Tally
from biomedllama_cli.engine.metrics import METRICS_FILE, iter_metrics
from biomedllama_cli.engine.run_folder import open_run_folder
from biomedllama_cli.engine.saved_runs import REPORT_FILE, name_checkpoint
from biomedllama_cli.models.adapters import add_adapter, load_adapter_weights, load_base, merge_adapter
from biomedllama_cli.models.description import describe_model
from biomedllama_cli.models.document_masking import tell_where_documents_meet
from biomedllama_cli.recipes.command_line import show_command_line
from biomedllama_cli.recipes.onlookers import build_tuning_onlookers
from biomedllama_cli.recipes.pretrain_report import read_versions
from biomedllama_cli.recipes.training import (
    build_loop_settings,
    build_trainee,
    choose_attention,
    open_progress,
)
from biomedllama_cli.recipes.tuning_plan import TuningPlan
from biomedllama_cli.recipes.tuning_report import SeedRun, load_seed_run
from biomedllama_cli.recipes.tuning_start import is_merged, read_end
from biomedllama_cli.report.plots import LOSS_CURVE_FILE, plot_loss_curve

logger = logging.getLogger(__name__)

MERGED_FOLDER, FILES_FOLDER = "merged", "checkpoint_files"


def find_finished_run(plan: TuningPlan, accelerator: Accelerator) -> SeedRun | None:
    """Return the report of the same run, where its folder holds its end already; adapters are merged if need be."""
    report = read_end(plan.start)
    if report is None or report.checkpoint is None:
        return None
    if plan.settings.adapter.merge and not is_merged(report):
        return merge_finished_run(plan, accelerator, report, report.checkpoint)
    logger.info("%s is finished: nothing to do", plan.start.folder)
    return report.model_copy(update={"status": "already trained"})


def merge_finished_run(
    plan: TuningPlan, accelerator: Accelerator, report: SeedRun, checkpoint: Path
) -> SeedRun:
    """Merge the adapters of a run that was trained before, and write that into its report."""
    merged = report.model_copy(update={"merged": plan.start.folder / MERGED_FOLDER})
    accelerator.wait_for_everyone()  # every rank has read the report before rank 0 takes it away
    if accelerator.is_main_process:
        logger.info("%s is finished: only its adapters are merged", plan.start.folder)
        with open_with_files(plan):
            merge_checkpoint(plan, checkpoint)
            write_atomically(plan.start.folder / REPORT_FILE, merged.model_dump_json(indent=2) + "\n")
    accelerator.wait_for_everyone()
    return merged.model_copy(update={"status": "already trained, merged now"})


def tune(plan: TuningPlan, accelerator: Accelerator) -> tuple[SeedRun, dict[str, Any]]:
    """Train one run to its end, and return its report with where it was trained.

    Raises:
        ModelError: the model cannot be used, or a loss is not finite.
        Resumable: a signal stopped the run after saving.
    """
    began, settings = time.perf_counter(), plan.settings
    torch.manual_seed(plan.seed + accelerator.process_index)  # dropout, in models that have it
    model = build_model(plan, accelerator)
    description = describe_model(model)
    sizes = {
        "parameters": description.parameters,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    facts = {"device": accelerator.device.type, "world_size": accelerator.num_processes}
    trainee = build_trainee(accelerator, model, settings, plan.start.checkpoint)
    loop_settings = build_loop_settings(settings, description, accelerator)
    accelerator.wait_for_everyone()  # every rank has looked at the run folder before rank 0 changes it
    if accelerator.is_main_process:
        logger.info("%.1f %% of the positions are tokens of examples", 100 * plan.data.real_share())
        if progress_before := plan.start.progress:
            logger.info(
                "seed %d continues after step %d of %d",
                plan.seed,
                progress_before.step,
                plan.data.total_steps,
            )
    with open_for_writing(accelerator, plan):
        accelerator.wait_for_everyone()
        with open_progress(
            accelerator, f"{plan.command}, seed {plan.seed}", plan.data.total_steps
        ) as progress:
            loop = Loop(
                trainee,
                plan.data,
                build_run_folder(plan),
                choose_best(loop_settings, plan),
                progress,
                onlookers=build_tuning_onlookers(plan, accelerator),
            )
            tally = loop.run()
        del trainee, loop, model
        free_memory(accelerator)
        checkpoint = choose_checkpoint(plan, tally)
        if accelerator.is_main_process:
            finish(plan, tally, checkpoint, {**sizes, "wall_seconds": time.perf_counter() - began})
        accelerator.wait_for_everyone()
    return share_report(accelerator, plan.start.folder), facts


def share_report(accelerator: Accelerator, folder: Path) -> SeedRun:
    """Return the report that rank 0 has written: other nodes may not see its disk."""
    shared = [load_seed_run(folder) if accelerator.is_main_process else None]
    broadcast_object_list(shared)
    (report,) = shared
    assert report is not None
    return report


def build_model(plan: TuningPlan, accelerator: Accelerator) -> PreTrainedModel:
    """Load the base model or the checkpoint that is continued, with adapters where they are trained."""
    settings, checkpoint = plan.settings, plan.start.checkpoint
    method = settings.adapter.method
    resumed = checkpoint if method == "full" else None
    with explain_broken(resumed):
        model = load_base(
            str(resumed or plan.pupil.source),
            method,
            device=accelerator.device,
            precision=settings.numerics.precision,
            attention=choose_attention(settings.numerics, accelerator.device),
            vocabulary_size=plan.pupil.tokenizer.vocabulary_size,
        )
    if settings.rows.packing and accelerator.is_main_process:
        tell_where_documents_meet(model)
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


def merge_checkpoint(plan: TuningPlan, checkpoint: Path) -> Path:
    """Write a plain model folder with the adapters of a checkpoint merged in, and return it."""
    merged = plan.start.folder / MERGED_FOLDER
    merge_adapter(checkpoint, merged)
    plan.lessons.template.save(merged)
    plan.write_files(merged, "merged")
    return merged


def average_ends(losses: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean losses of the first and the last tenth of the steps; None where there is one step only.

    >>> average_ends([4.0, 3.0, 2.0]), average_ends([2.0])
    ((4.0, 2.0), (None, None))
    """
    if len(losses) < 2:
        return None, None
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth


def finish(plan: TuningPlan, tally: Tally, checkpoint: Path, measured: dict[str, Any]) -> None:
    """Draw the loss curve, merge the adapters where that is asked for, and write the run's report."""
    folder = plan.start.folder
    curve = folder / LOSS_CURVE_FILE
    plot_loss_curve(folder / METRICS_FILE, curve, curve.with_suffix(".svg"))
    merged = merge_checkpoint(plan, checkpoint) if plan.settings.adapter.merge else None
    lines = list(iter_metrics(folder / METRICS_FILE))
    first, last = average_ends([line["train/loss"] for line in lines if "train/loss" in line])
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
        loss_first=first,
        loss_last=last,
        target_tokens_seen=tally.tokens_seen,
        tokens_per_second=tally.trained_tokens / tally.train_seconds if tally.train_seconds else None,
        loss_curve=folder / LOSS_CURVE_FILE,
        **measured,
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
        "command": show_command_line(),
    }
    with open_run_folder(plan.start, plan.job, facts):
        folder = plan.start.folder / FILES_FOLDER
        plan.pupil.tokenizer.save(folder)
        plan.lessons.template.save(folder)
        plan.write_files(folder, "checkpoint")
        shutil.copytree(plan.lessons.reports, plan.start.folder, dirs_exist_ok=True)
        yield
