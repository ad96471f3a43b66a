"""`biomedllama pretrain`: train a causal language model further on a prepared corpus."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch
from accelerate import Accelerator

from biomedllama_cli.corpus.durable import write_atomically
from biomedllama_cli.engine.accelerator import build_accelerator
from biomedllama_cli.engine.agreement import agree_on_start
from biomedllama_cli.engine.checkpoint import RunFolder
from biomedllama_cli.engine.checkpoint_folder import explain_broken
from biomedllama_cli.engine.forgetting import read_last_look
from biomedllama_cli.engine.loader import RunData
from biomedllama_cli.engine.loop import Loop, Tally
from biomedllama_cli.engine.metrics import METRICS_FILE
from biomedllama_cli.engine.model_fit import check_model_fits
from biomedllama_cli.engine.run_folder import RunStart, open_run_folder, plan_start
from biomedllama_cli.engine.saved_runs import REPORT_FILE
from biomedllama_cli.engine.sharding import read_world
from biomedllama_cli.engine.tracking import check_trackers
from biomedllama_cli.engine.validation import Validator, build_validator, score_unigram
from biomedllama_cli.models.attention_names import name_attention
from biomedllama_cli.models.description import describe_model
from biomedllama_cli.models.document_masking import tell_where_documents_meet
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.rope import check_stretched, stretch_model
from biomedllama_cli.recipes.command_line import show_command_line
from biomedllama_cli.recipes.onlookers import build_pretrain_onlookers
from biomedllama_cli.recipes.pretrain_dry_run import report_dry_run
from biomedllama_cli.recipes.pretrain_facts import describe_run
from biomedllama_cli.recipes.pretrain_plan import Plan, plan_run
from biomedllama_cli.recipes.pretrain_report import (
    PretrainReport,
    load_report,
    read_spikes,
    read_validations,
    read_versions,
)
from biomedllama_cli.recipes.training import (
    build_loop_settings,
    build_trainee,
    check_numerics,
    choose_attention,
    describe_mfu,
    open_progress,
)
from biomedllama_cli.report.plots import LOSS_CURVE_FILE, plot_loss_curve
from biomedllama_cli.settings.pretrain import PretrainSettings

__all__ = ["PretrainReport", "pretrain"]

logger = logging.getLogger(__name__)


def pretrain(settings: PretrainSettings, *, dry_run: bool = False) -> PretrainReport:
    """Train a model on a corpus, or go on where the run folder's newest checkpoint stands.

    Args:
        settings: the whole tree of this command.
        dry_run: say what would be trained; no weights are loaded and nothing is written.

    Raises:
        SettingsError: batch, mesh, precision or sequence length do not fit.
        DataError: the corpus or a checkpoint is missing, broken or does not fit.
        ModelError: the model does not fit the corpus, or a loss is not finite.
        UnavailableError: the hub or the device is not to be had.
        OutputError: the run folder holds something else.
        Resumable: a signal stopped the run after saving.
    """
    check_trackers(settings.monitor.track)
    check_numerics(settings.numerics)
    if dry_run:
        return report_dry_run(settings)
    plan = plan_run(settings, read_world())
    accelerator = build_accelerator(settings.parallel, settings.numerics)
    total = plan.order.total_steps
    start = agree_on_start(
        plan.start,
        lambda: plan_start(plan.start.folder, plan.job, resume=settings.resume, overwrite=settings.overwrite),
        lambda start: " of a finished run" if find_finished_run(start, total) else "",
    )
    if report := find_finished_run(start, total):
        logger.info("%s is finished: nothing to do", start.folder)
        return report.model_copy(update={"status": "already trained"})
    return train(replace(plan, start=start), accelerator)


def find_finished_run(start: RunStart, total_steps: int) -> PretrainReport | None:
    """Return the report of the same run, where its folder holds its last step and its report already."""
    if start.replaces or start.progress is None or start.progress.step < total_steps:
        return None
    report = load_report(start.folder)
    return report if report is not None and report.checkpoint and report.checkpoint.is_dir() else None


def train(plan: Plan, accelerator: Accelerator) -> PretrainReport:
    """Load the model, train it to the last step, and report."""
    began, settings, manifest = time.perf_counter(), plan.settings, plan.corpus.manifest
    attention = choose_attention(settings.numerics, accelerator.device, settings.parallel.cp_size)
    source = str(plan.start.checkpoint or settings.model)
    torch.manual_seed(settings.seed + accelerator.process_index)  # dropout, in models that have it
    with explain_broken(plan.start.checkpoint):
        model = load_model(
            source,
            attention=attention,
            vocabulary_size=manifest.vocabulary_size,
            bos_id=manifest.bos_id,
            eos_id=manifest.eos_id,
            seed=settings.seed,
        )
    if plan.start.checkpoint is None:
        stretch_model(model, settings.positions, settings.batch.sequence_length)
    else:
        check_stretched(model.config, settings.positions)
    check_model_fits(source, model.config, manifest, settings.batch.sequence_length)
    if accelerator.is_main_process:
        tell_where_documents_meet(model)
    description = describe_model(model)
    trainee = build_trainee(accelerator, model, settings, plan.start.checkpoint)
    validator = build_run_validator(plan)
    data = RunData(plan.rows, plan.order, plan.batch, validator)
    loop_settings = build_loop_settings(settings, description, accelerator)
    if loop_settings.peak_flops is not None:
        logger.info("%s", describe_mfu(loop_settings, description))
    unigram = score_unigram(plan.corpus)
    accelerator.wait_for_everyone()  # every rank has looked at the run folder before rank 0 changes it
    with open_for_writing(accelerator, plan):
        with open_progress(accelerator, "pretrain", plan.order.total_steps) as progress:
            onlookers = build_pretrain_onlookers(plan, accelerator)
            loop = Loop(trainee, data, build_run_folder(plan), loop_settings, progress, onlookers=onlookers)
            tally = loop.run()
        # eager for a model that needs it, whatever was asked
        attention = name_attention(model.config._attn_implementation)
        facts = describe_run(plan, description, attention, accelerator.device.type)
        facts |= measure(plan, loop, tally, wall_seconds=time.perf_counter() - began)
        facts["spikes"] = read_spikes(plan.start.folder / METRICS_FILE)
        if loop_settings.peak_flops is not None:
            facts["mfu_formula"] = describe_mfu(loop_settings, description)
        if validator is not None:
            facts |= {"bits_per_byte_unigram": unigram, "validation_is_sampled": validator.is_sampled}
        report = PretrainReport(
            status="trained", **facts, **read_validations(plan.start.folder / METRICS_FILE)
        )
        if accelerator.is_main_process:
            curve = report.run_folder / LOSS_CURVE_FILE
            plot_loss_curve(plan.start.folder / METRICS_FILE, curve, curve.with_suffix(".svg"))
            write_atomically(report.run_folder / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    return report


def measure(plan: Plan, loop: Loop, tally: Tally, *, wall_seconds: float) -> dict[str, Any]:
    """Return the facts of a report that the run gave."""
    assert tally.checkpoint is not None
    speed = tally.trained_tokens / tally.train_seconds if tally.train_seconds else None
    look = read_last_look(plan.start.folder)
    return {
        "checkpoint": tally.checkpoint,
        "loss_curve": plan.start.folder / LOSS_CURVE_FILE,
        "tokens_seen": tally.tokens_seen,
        "tokens_per_second": speed,
        "mfu": loop.mfu(speed) if speed else None,
        "wall_seconds": wall_seconds,
        "forgetting": look if look is not None and look.step == tally.step else None,
    }


def build_run_validator(plan: Plan) -> Validator | None:
    """Return the validator of the corpus, or None when it holds nothing out."""
    return build_validator(
        plan.corpus,
        sequence_length=plan.settings.batch.sequence_length,
        micro_batch_size=plan.settings.batch.micro_batch_size,
        max_sequences=plan.settings.monitor.validation_sequences,
    )


def build_run_folder(plan: Plan) -> RunFolder:
    """Return where the loop writes and what it continues."""
    start = plan.start
    return RunFolder(
        start.folder,
        plan.corpus.tokenizer_folder,
        plan.job.order,
        start.checkpoint,
        start.progress,
        same_command_restarts=plan.settings.resume != "auto",
    )


def open_for_writing(accelerator: Accelerator, plan: Plan) -> AbstractContextManager[None]:
    """Open the run folder on rank 0; the other ranks write nothing."""
    if not accelerator.is_main_process:
        return nullcontext()
    facts = {
        "settings": plan.settings.model_dump(mode="json"),
        "versions": read_versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": show_command_line(),
    }
    return open_run_folder(plan.start, plan.job, facts)
