"""What a run of tuning will be: known before any weight is loaded, and changing nothing."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from biomedllama_cli.engine.accelerator import choose_device_type
from biomedllama_cli.engine.model_fit import find_positions
from biomedllama_cli.engine.run_folder import Job, RunStart
from biomedllama_cli.engine.saved_runs import find_newest_result
from biomedllama_cli.engine.sharding import World
from biomedllama_cli.engine.tuning_data import TuningData
from biomedllama_cli.engine.tuning_rows import TuningRows
from biomedllama_cli.engine.tuning_validation import TuningValidator
from biomedllama_cli.errors import ModelError
from biomedllama_cli.instructions.encoding import EncodedSet
from biomedllama_cli.models.adapters import find_tokenizer_source
from biomedllama_cli.models.chat_template import Template
from biomedllama_cli.models.load import load_text_config
from biomedllama_cli.models.scratch import SCRATCH_PREFIX
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer
from biomedllama_cli.recipes.evaluate_sources import find_models, refuse_gguf
from biomedllama_cli.recipes.pretrain_report import read_versions
from biomedllama_cli.recipes.training import TrainingSections, describe_spikes
from biomedllama_cli.recipes.tuning_report import TuningFacts
from biomedllama_cli.settings.evaluate import EvaluateSettings
from biomedllama_cli.settings.tuning import AdapterSettings, RowSettings, TuningDurationSettings

logger = logging.getLogger(__name__)

_CUDA_MULTIPLE = 8
"""Tensor cores want widths that are a multiple of it (in tokens)."""


class TuningSections(TrainingSections, Protocol):
    """The sections that the trees of `finetune` and `instruct` have."""

    @property
    def adapter(self) -> AdapterSettings:
        """Return which weights are trained."""
        ...

    @property
    def duration(self) -> TuningDurationSettings:
        """Return how long is trained."""
        ...

    @property
    def rows(self) -> RowSettings:
        """Return how examples become rows."""
        ...


@dataclass(frozen=True)
class Lessons:
    """The examples of a run, encoded.

    Attributes:
        train: learnt from.
        held_out: looked at to choose the best checkpoint, or None.
        facts: what a report says of them.
        template: they are written in.
        reports: folder of files about them, for the run folder.
    """

    train: EncodedSet
    held_out: EncodedSet | None
    facts: TuningFacts
    template: Template
    reports: Path


@dataclass(frozen=True)
class Pupil:
    """The model that is tuned: where it is, its tokenizer, and its positions, where its configuration has a limit."""

    source: str
    tokenizer: Tokenizer
    positions: int | None = None


Holds = Literal["checkpoint", "merged"]


@dataclass(frozen=True)
class TuningPlan:
    """Everything about one run that is known before its weights are loaded.

    Attributes:
        command: finetune or instruct.
        settings: the sections that are read.
        every_setting: all of them, for settings.json.
        pupil: the base model.
        seed: of the run.
        data: rows, order and what is held out.
        job: what is trained, for the run folder.
        start: how the run begins.
        lessons: what is learnt.
        write_files: writes what goes beside the tokenizer into a folder: that of a checkpoint, or of the merged model.
    """

    command: str
    settings: TuningSections
    every_setting: dict[str, Any]
    pupil: Pupil
    seed: int
    data: TuningData
    job: Job
    start: RunStart
    lessons: Lessons
    write_files: Callable[[Path, Holds], None]


def find_base(model: str, workspace: Path, command: str) -> str:
    """Return the model that is tuned: the one given (of a run folder what it has to show), else the newest.

    What the same command made is not the newest: given again without a model, a command has to continue its own run
    and not to tune that.

    Raises:
        ModelError: none is given and the workspace has no checkpoint, or the given one cannot be there.
    """
    if model.startswith(SCRATCH_PREFIX):
        raise ModelError(
            f"model: {model} has random weights and no tokenizer, so there is nothing to tune.",
            hint="Give a hub id, a model folder or a checkpoint; `biomedllama pretrain` trains this shape.",
        )
    refuse_gguf(model)
    newest = None if model else find_newest_result(workspace, but_of=command)
    if not model and newest is None:
        raise ModelError(
            f"no model was given, and the workspace {workspace.resolve()} holds no checkpoint to {command}.",
            hint="Give --model (a hub id, a model folder or a checkpoint), or train one with `biomedllama pretrain`.",
        )
    if newest is not None:
        logger.info("no model was given: taking the newest result of the workspace, %s", newest)
    (source,) = find_models(EvaluateSettings(workspace=workspace, model=(model or str(newest),)))
    return source


def load_pupil(model: str, workspace: Path, command: str) -> Pupil:
    """Find the model that is tuned, and load its tokenizer.

    Raises:
        ModelError: there is no such model, or it has no usable tokenizer.
        UnavailableError: the hub is needed and cannot be reached.
    """
    source = find_base(model, workspace, command)
    config = load_text_config(source)  # before the tokenizer, so that a wrong model is called a wrong model
    return Pupil(source, load_tokenizer(find_tokenizer_source(source)), find_positions(config))


def build_data(
    lessons: Lessons,
    pupil: Pupil,
    settings: TuningSections,
    order: npt.NDArray[np.int64],
    world: World,
    *,
    on_cuda: bool,
) -> TuningData:
    """Lay out a run: its rows, their order, and what is held out."""
    batch, packing = settings.batch, settings.rows.packing
    shape: dict[str, Any] = {
        "eos_id": pupil.tokenizer.eos_id,
        "sequence_length": batch.sequence_length,
        "multiple_of": _CUDA_MULTIPLE if on_cuda else 1,
    }
    validator = None
    if lessons.held_out is not None:
        validator = TuningValidator(
            TuningRows(lessons.held_out, **shape),
            micro_batch_size=batch.micro_batch_size,
            packing=packing,
            max_examples=settings.monitor.validation_sequences,
        )
    return TuningData(
        TuningRows(lessons.train, **shape),
        order,
        batch=batch,
        world_size=world.world_size,
        packing=packing,
        max_steps=settings.duration.max_steps,
        validator=validator,
    )


def describe_job(
    command: str,
    settings: TuningSections,
    pupil: Pupil,
    lessons: Lessons,
    order: npt.NDArray[np.int64],
    *,
    seed: int,
) -> Job:
    """Return what a run trains, as flat names and values; how fast and where it runs is left out."""
    fixed = {
        "examples": hash_examples(lessons.train),
        "order": hashlib.sha256(order.tobytes()).hexdigest(),
        "seed": seed,  # an order may be that of several seeds, adapters and dropout are not
        "batch.sequence_length": settings.batch.sequence_length,
        "batch.global_batch_size": settings.batch.global_batch_size,
    }
    sections = {
        "adapter": settings.adapter.model_copy(update={"merge": False}),
        "duration": settings.duration,
        "optimizer": settings.optimizer,
        "schedule": settings.schedule,
    }
    other: dict[str, Any] = {
        "command": command,
        "model": pupil.source,
        "template": lessons.template.name,
        "held_out": hash_examples(lessons.held_out) if lessons.held_out is not None else None,
        "numerics.precision": settings.numerics.precision,
        **describe_spikes(settings.monitor),
    }
    if (
        lessons.held_out is not None
    ):  # when and at how many of them is looked decides which checkpoint is the best
        monitor = settings.monitor
        other["monitor.validate_every_steps"] = monitor.validate_every_steps
        other["monitor.validation_sequences"] = monitor.validation_sequences
    for section, group in sections.items():
        other |= {f"{section}.{name}": value for name, value in group.model_dump(mode="json").items()}
    return Job(fixed, other)


def hash_examples(encoded: EncodedSet) -> str:
    """Return one SHA-256 over the tokens of some examples and which of them are learnt."""
    digest = hashlib.sha256()
    for array in (encoded.token_ids, encoded.trained, encoded.starts):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def describe_facts(settings: TuningSections, pupil: Pupil, lessons: Lessons, world: World) -> dict[str, Any]:
    """Return what the reports of both commands say of a run before anything is trained."""
    return {
        "model": pupil.source,
        "method": settings.adapter.method,
        "data": lessons.facts,
        "sequence_length": settings.batch.sequence_length,
        "global_batch_size": settings.batch.global_batch_size,
        "epochs": settings.duration.epochs,
        "world_size": world.world_size,
        "device": choose_device_type(settings.parallel),
        "versions": read_versions(),
    }
