"""What a training run will be: known before any weight is loaded, and changing nothing."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from biomedllama_cli.corpus.manifest import Corpus, CorpusManifest, find_newest_corpus, load_corpus
from biomedllama_cli.corpus.merging import merge_corpora
from biomedllama_cli.engine.checkpoint import load_progress
from biomedllama_cli.engine.context_parallel import check_split
from biomedllama_cli.engine.mixture import Mixture
from biomedllama_cli.engine.order import (
    PADDING_SEQUENCE,
    BatchPlan,
    SequenceOrder,
    build_batch_plan,
    build_sequence_order,
)
from biomedllama_cli.engine.rows import PackedRows
from biomedllama_cli.engine.run_folder import Job, RunStart, plan_start
from biomedllama_cli.engine.saved_runs import find_model_of_run
from biomedllama_cli.engine.sequence_frames import SEQUENCE_LOG, read_frames
from biomedllama_cli.engine.sequence_history import follow_history
from biomedllama_cli.engine.sharding import World, choose_mesh, data_ranks
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.recipes.evaluate_sources import find_result_of_run, refuse_gguf
from biomedllama_cli.recipes.general_sets import read_general_sets
from biomedllama_cli.recipes.training import describe_spikes
from biomedllama_cli.settings.base import Settings
from biomedllama_cli.settings.pretrain import PositionsSettings, PretrainSettings
from biomedllama_cli.settings.weights import parse_weights
from biomedllama_cli.wording import name_count

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything about a run that is known before its weights are loaded.

    Attributes:
        settings: the whole tree.
        corpus: the opened corpus.
        rows: its training rows.
        order: the sequences of every step.
        batch: how a step is split over ranks.
        job: what is trained, for the run folder.
        start: how the run begins.
        world: processes of the job.
    """

    settings: PretrainSettings
    corpus: Corpus
    rows: PackedRows
    order: SequenceOrder
    batch: BatchPlan
    job: Job
    start: RunStart
    world: World


def plan_run(settings: PretrainSettings, world: World) -> Plan:
    """Open the corpus and lay out the run; changes nothing."""
    settings = settings.model_copy(update={"model": find_model(settings)})
    refuse_gguf(settings.model)
    read_general_sets(settings)  # what is wrong with them is told before anything is loaded
    corpus = merge_corpora([load_corpus(folder) for folder in (find_corpus(settings), *settings.mix)])
    manifest = corpus.manifest
    check_split(settings.batch.sequence_length, settings.parallel.cp_size)
    batch = build_batch_plan(settings.batch, data_ranks(choose_mesh(settings.parallel, world)))
    rows = PackedRows(
        corpus.train, settings.batch.sequence_length, eos_id=manifest.eos_id, has_bos=manifest.adds_bos
    )
    mixture = build_mixture(settings, corpus, rows)
    order = build_sequence_order(mixture, settings.batch, settings.duration, settings.seed)
    job = describe_job(settings, manifest, mixture)
    folder = settings.output_dir or settings.workspace / "runs" / f"pretrain-{corpus.folder.resolve().name}"
    start = plan_start(folder, job, resume=settings.resume, overwrite=settings.overwrite)
    check_steps_left(start, order.total_steps)
    if settings.resume != "auto":  # which continues nothing but the same job
        check_last_step(start, order)
    return Plan(settings, corpus, rows, order, batch, job, start, world)


def find_model(settings: PretrainSettings) -> str:
    """Return the model that a run starts from: with a checkpoint that is named, the one that its run started from.

    Raises:
        SettingsError: another model was given, or that run does not say.
        DataError: the checkpoint is none.
    """
    model = find_result_of_run(settings.model)
    if settings.resume in ("auto", "never"):
        return model
    checkpoint, is_given = Path(settings.resume).expanduser(), "model" in settings.model_fields_set
    load_progress(checkpoint)
    made_from = find_model_of_run(checkpoint.resolve().parent.parent)
    if made_from is None and not is_given:
        raise SettingsError(
            f"model: what {checkpoint} was trained from is not known without the settings.json of its run.",
            hint="Name that model with --model.",
        )
    if (
        is_given
        and made_from
        and Path(made_from).expanduser().resolve() != Path(model).expanduser().resolve()
    ):
        raise SettingsError(
            f"model is {model}, but {checkpoint} was trained from {made_from}.",
            hint="Leave --model out, or leave --resume out to start from the weights of a model.",
        )
    return made_from or model


def build_mixture(settings: PretrainSettings, corpus: Corpus, rows: PackedRows) -> Mixture:
    """Return what one epoch takes of each source: as prepared, unless the settings say otherwise.

    Raises:
        SettingsError: a weight is no number, or of no source of the corpora.
    """
    prepared = {source.name: source.weight for source in corpus.manifest.sources}
    weights = prepared | parse_weights("weight", settings.weight, set(corpus.list_train_sources()))
    return Mixture.of(list(zip(corpus.list_train_sources(), rows.shard_rows, strict=True)), weights)


def check_steps_left(start: RunStart, total_steps: int) -> None:
    """Check that a checkpoint of another folder leaves something to train; one of this folder may be its last.

    Raises:
        SettingsError: it is at the run's last step, or beyond.
    """
    if start.checkpoint is None or start.progress is None or start.progress.step < total_steps:
        return
    if start.folder.resolve() not in start.checkpoint.resolve().parents:
        raise SettingsError(
            f"resume: {start.checkpoint} is at step {start.progress.step}, and this run ends at step {total_steps}, "
            "so nothing is left to train.",
            hint="Raise --max-steps or --epochs, or start from its weights alone with "
            f"--model {start.checkpoint} and without --resume.",
        )


def check_last_step(start: RunStart, order: SequenceOrder) -> None:
    """Check that a checkpoint's own last step was fed what this run feeds there.

    A run whose epochs end inside its last step fills that step up. Where a longer run continues it, sequences belong
    there, which it would never see.

    Raises:
        DataError: it was filled up with rows without a sequence.
    """
    if start.checkpoint is None or start.progress is None:
        return
    log = start.checkpoint.resolve().parents[1] / SEQUENCE_LOG
    fed = follow_history(read_frames(log)).steps.get(start.progress.step) if log.is_file() else None
    if fed is None or len(fed.ids) != order.global_batch_size:
        return
    left_out = (fed.ids == PADDING_SEQUENCE) & (order.step_sequences(fed.step) != PADDING_SEQUENCE)
    if left_out.any():
        raise DataError(
            f"resume: {start.checkpoint} ends with a step that was filled up, since its epochs ended there; a longer "
            f"run would never see the {name_count(int(left_out.sum()), 'sequence')} that belong in it.",
            hint="Resume an earlier checkpoint of that run, or start from its weights alone with "
            f"--model {start.checkpoint} and without --resume.",
        )


def find_corpus(settings: PretrainSettings) -> Path:
    """Return the corpus folder: the one given, else the newest of the workspace.

    Raises:
        DataError: there is none.
    """
    folder = settings.corpus or find_newest_corpus(settings.workspace)
    if folder is None:
        raise DataError(
            f"No corpus was given, and the workspace {settings.workspace.resolve()} holds none.",
            hint="Make one with `biomedllama prepare`, or give --corpus FOLDER; with --dry-run, --plan-tokens 63e9 "
            "plans one that is not there yet.",
        )
    if settings.corpus is None:
        logger.info("corpus: taking the newest of the workspace, %s", folder)
    return folder


def describe_job(settings: PretrainSettings, manifest: CorpusManifest, mixture: Mixture) -> Job:
    """Return what a run trains, as flat names and values; how fast and where it runs is left out."""
    order = {
        "corpus": fingerprint_corpus(manifest),
        "tokenizer": manifest.tokenizer.fingerprint,
        "seed": settings.seed,
        "batch.sequence_length": settings.batch.sequence_length,
        "batch.global_batch_size": settings.batch.global_batch_size,
        "mixture": dict(zip(mixture.names, mixture.weights, strict=True)),
    }
    sections: dict[str, Settings] = {
        "duration": settings.duration,
        "optimizer": settings.optimizer,
        "schedule": settings.schedule,
    }
    if settings.positions != PositionsSettings():
        sections["positions"] = settings.positions
    other = {"model": settings.model, "numerics.precision": settings.numerics.precision}
    other |= describe_spikes(settings.monitor) | {
        f"{section}.{name}": value
        for section, group in sections.items()
        for name, value in group.model_dump(mode="json").items()
    }
    return Job(order, other)


def fingerprint_corpus(manifest: CorpusManifest) -> str:
    """Return one SHA-256 over the shards, their tokenizer and their BOS; a copied or renamed corpus keeps it."""
    facts = {
        "shards": [entry.model_dump(mode="json") for entry in manifest.shards],
        "tokenizer": manifest.tokenizer.fingerprint,
        "adds_bos": manifest.adds_bos,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
