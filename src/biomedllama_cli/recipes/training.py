"""What the recipes that train have in common: pretrain, finetune and instruct."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from biomedllama_cli.engine.accelerator import prepare
from biomedllama_cli.engine.activation_checkpointing import save_activations
from biomedllama_cli.engine.checkpoint import load_optimizer
from biomedllama_cli.engine.context_parallel import build_row_split, share_rows
from biomedllama_cli.engine.device_mesh import read_mesh
from biomedllama_cli.engine.launch import count_processes
from biomedllama_cli.engine.layer_compiler import compile_layers
from biomedllama_cli.engine.loop import LoopSettings, ProgressReporter, Trainee
from biomedllama_cli.engine.optimizer import build_optimizer
from biomedllama_cli.engine.sharding import World, data_rank, data_ranks, read_world
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.models.attention_names import check_attention
from biomedllama_cli.models.description import ModelDescription
from biomedllama_cli.models.document_attention import DOCUMENT_ATTENTION
from biomedllama_cli.models.flops import find_peak_flops, format_mfu_formula, training_flops_per_token
from biomedllama_cli.models.load import resolve_attention
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.models.precision import DTYPES
from biomedllama_cli.models.split_attention import SPLIT_ATTENTION, check_splittable
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.pretrain import (
    BatchSettings,
    CheckpointSettings,
    MonitorSettings,
    NumericsSettings,
    OptimizerSettings,
    ParallelSettings,
    ScheduleSettings,
)


class TrainingSections(Protocol):
    """The sections that all trees of training commands have."""

    @property
    def batch(self) -> BatchSettings:
        """Return how tokens are grouped."""
        ...

    @property
    def optimizer(self) -> OptimizerSettings:
        """Return the optimizer's section."""
        ...

    @property
    def schedule(self) -> ScheduleSettings:
        """Return the learning rate's section."""
        ...

    @property
    def checkpoint(self) -> CheckpointSettings:
        """Return the section of saving."""
        ...

    @property
    def monitor(self) -> MonitorSettings:
        """Return the section of validation and metrics."""
        ...

    @property
    def parallel(self) -> ParallelSettings:
        """Return the section of processes."""
        ...

    @property
    def numerics(self) -> NumericsSettings:
        """Return the section of precision."""
        ...


def plan_world(parallel: ParallelSettings, *, dry_run: bool) -> World:
    """Return the processes of this job; for a dry run outside a job, those that would be started."""
    world = read_world()
    if dry_run and world.world_size == 1:
        processes = count_processes(parallel)
        return World(parallel.nodes * processes, processes)
    return world


def check_numerics(numerics: NumericsSettings) -> None:
    """Check that what is asked for can be had together.

    Raises:
        SettingsError: it cannot.
    """
    if numerics.compile and numerics.activation_checkpointing == "selective":
        raise SettingsError(
            "numerics.compile is on and numerics.activation_checkpointing is selective, but a compiled layer already "
            "keeps its products and computes the rest again where that saves memory.",
            "Leave one of them out, or use --activation-checkpointing full.",
        )


def choose_attention(numerics: NumericsSettings, device: torch.device, cp_size: int = 1) -> str:
    """Return the attention implementation, tried in the dtype that it will compute in.

    Raises:
        SettingsError: ranks share sequences, and another attention than their own is asked for.
        UnavailableError: the device lacks what is asked for.
    """
    if cp_size > 1:
        if numerics.attention != "auto":
            raise SettingsError(
                f"numerics.attention is {numerics.attention}, but with parallel.cp_size = {cp_size} sequences are "
                "split over ranks, which takes an attention of its own.",
                "Leave --attention out.",
            )
        return SPLIT_ATTENTION
    if numerics.attention == "auto" and device.type == "cpu":
        return DOCUMENT_ATTENTION
    check_attention(numerics.attention, device, DTYPES[numerics.precision])
    return resolve_attention(numerics.attention, device, DTYPES[numerics.precision])


def build_trainee(
    accelerator: Accelerator, model: PreTrainedModel, settings: TrainingSections, checkpoint: Path | None
) -> Trainee:
    """Prepare model and optimizer for their devices, with the moments of the checkpoint that is continued."""
    save_activations(model, settings.numerics.activation_checkpointing, accelerator.device)
    if settings.numerics.compile:
        compile_layers(model, accelerator.device)
    enable_token_losses(model, settings.numerics.loss_memory)
    if (split := build_row_split(accelerator)) is not None:
        check_splittable(model)
        share_rows(model, split)
    optimizer = build_optimizer(model, settings.optimizer)
    model, optimizer = prepare(accelerator, model, optimizer)
    if checkpoint is not None:
        load_optimizer(checkpoint, model, optimizer)
    return Trainee(accelerator, model, optimizer)


def describe_spikes(monitor: MonitorSettings) -> dict[str, Any]:
    """Return the settings that decide which updates are left out; they are part of a job."""
    names = ("spikes", "spike_deviations", "spike_window")
    return {f"monitor.{name}": getattr(monitor, name) for name in names}


def describe_mfu(settings: LoopSettings, description: ModelDescription) -> str:
    """Return the sentence that goes with every MFU."""
    assert settings.peak_flops is not None
    return format_mfu_formula(
        matmul_parameters=description.matmul_parameters,
        frozen_parameters=description.frozen_matmul_parameters,
        flops_per_token=settings.flops_per_token,
        peak_flops=settings.peak_flops,
    )


def build_loop_settings(
    settings: TrainingSections, description: ModelDescription, accelerator: Accelerator
) -> LoopSettings:
    """Return the sections the loop reads, and the numbers of the MFU."""
    mesh, on_cuda = read_mesh(accelerator), accelerator.device.type == "cuda"
    name = torch.cuda.get_device_name(accelerator.device) if on_cuda else ""
    known = find_peak_flops(name, settings.numerics.precision)
    return LoopSettings(
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        checkpoint=settings.checkpoint,
        monitor=settings.monitor,
        data_rank=data_rank(mesh, accelerator.process_index),
        data_ranks=data_ranks(mesh),
        data_workers=settings.parallel.data_workers,
        flops_per_token=training_flops_per_token(
            matmul_parameters=description.matmul_parameters,
            frozen_parameters=description.frozen_matmul_parameters,
            layers=description.layers,
            attention_size=description.attention_size,
            sequence_length=settings.batch.sequence_length,
        ),
        peak_flops=settings.monitor.peak_flops or known,
    )


class NoProgress:
    """Tells nobody: for the ranks other than the first."""

    def start_at(self, done: float) -> None:
        """Do nothing."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Do nothing."""


def open_progress(
    accelerator: Accelerator, name: str, total_steps: int
) -> AbstractContextManager[ProgressReporter]:
    """Return the progress bar of rank 0."""
    if not accelerator.is_main_process:
        return nullcontext(NoProgress())
    return Progress(name, total_steps, "steps")
