"""`biomedllama prepare`: text in, token shards out."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex, save_index
from biomedllama_cli.corpus.disk import explain_full_disk
from biomedllama_cli.corpus.executor import forget_lost_tasks, resumable_on_signals, watch_progress
from biomedllama_cli.corpus.job import check_output, find_finished
from biomedllama_cli.corpus.manifest import TOKENIZER_FOLDER
from biomedllama_cli.corpus.shards import choose_dtype
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.corpus.task_writer import is_current, task_folder
from biomedllama_cli.corpus.vocabulary import choose_texts
from biomedllama_cli.corpus.work_folder import WorkFolder, open_work_folder, remove_leftovers
from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from biomedllama_cli.recipes.prepare_corpus import build_corpus
from biomedllama_cli.recipes.prepare_fetch import fetch_inputs, settle_inventory
from biomedllama_cli.recipes.prepare_job import (
    build_benchmark_index,
    decide_bos,
    hash_finished_job,
    identify_work,
    load_given_tokenizer,
)
from biomedllama_cli.recipes.prepare_pipeline import INDEX_FOLDER, PROGRESS_FILE, Settled
from biomedllama_cli.recipes.prepare_plan import describe_input, find_output, plan
from biomedllama_cli.recipes.prepare_report import PrepareReport
from biomedllama_cli.recipes.prepare_source import build_gates, build_rules, build_source, check_inputs
from biomedllama_cli.recipes.prepare_spread import (
    Spread,
    check_executor,
    check_executor_is_here,
    count_workers,
    find_running_jobs,
    spread_tasks,
)
from biomedllama_cli.recipes.prepare_task import MARKS_FOLDER
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.prepare import PrepareSettings

logger = logging.getLogger(__name__)


def prepare(settings: PrepareSettings, *, dry_run: bool = False, finishing: bool = False) -> PrepareReport:
    """Turn biomedical text into a corpus folder.

    Args:
        settings: all settings.
        dry_run: only say what would happen.
        finishing: only put finished tasks together, as the job after Slurm's tasks does.

    Raises:
        UserError: input, tokenizer or output folder cannot be used, or a signal stopped the run.
    """
    output = find_output(settings)
    check_executor(settings.executor)
    check_inputs(settings)
    if dry_run:
        return plan(settings, output)
    started = time.monotonic()
    with resumable_on_signals(), explain_full_disk(output.parent):
        fetched = fetch_inputs(settings)
        settings = settle_inventory(settings, fetched)
        source = build_source(settings, fetched.files)
        loaded = load_given_tokenizer(settings)
        index = build_benchmark_index(settings)
        tasks = source.count_tasks(settings.executor.tasks)
        job = hash_finished_job(settings, source, loaded, index.sha256 if index else None)
        facts = describe_input(settings, source, output, tasks, loaded)
        identity = identify_work(settings, source, loaded, index.sha256 if index else None, tasks)
        finished = find_finished(output, job)
        if finished is not None:
            remove_leftovers(output, identity)
            return PrepareReport(state="already_finished", manifest=finished, **facts)
        check_output(output, overwrite=settings.overwrite)
        submission = None if finishing else find_running_jobs(settings.executor, output, identity)
        if submission is not None:
            return PrepareReport(state="submitted", jobs=submission.jobs, **facts)
        check_executor_is_here(settings.executor, finishing=finishing)
        with open_work_folder(output, identity, overwrite=settings.overwrite) as work:
            tokenizer = _settle_tokenizer(settings, source, loaded, work)
            if index:
                save_index(index, work.path / INDEX_FOLDER)
            settled = _settle(settings, tokenizer, index, tasks)
            spread = _run_tasks(settings, source, work, settled, bundles=fetched.files, finishing=finishing)
            facts["tasks_resumed"] = spread.resumed
            if spread.submission is not None:
                return PrepareReport(state="submitted", jobs=spread.submission.jobs, **facts)
            manifest = build_corpus(
                settings, source, work, tokenizer, index=index, job=job, inventory=fetched.inventory
            )
            work.publish(overwrite=settings.overwrite)
    seconds = round(time.monotonic() - started, 2)
    return PrepareReport(state="finished", manifest=manifest, seconds=seconds, **facts)


def _settle_tokenizer(
    settings: PrepareSettings, source: Source, loaded: Tokenizer | None, work: WorkFolder
) -> Tokenizer:
    """Put the tokenizer into the work folder, training it first where that is asked for."""
    folder, done = work.path / TOKENIZER_FOLDER, work.path / "tokenizer.done"
    if not done.exists():
        if loaded is not None:
            loaded.save(folder)
        else:
            _train(settings, source, folder)
        done.touch()
    saved = load_tokenizer(str(folder))  # the one that tokenises and that the corpus carries
    if loaded is None:
        return saved
    if (saved.fingerprint, saved.adds_bos) != (loaded.fingerprint, loaded.adds_bos):
        raise ModelError(
            f"tokenizer: {loaded.source!r} changes when transformers saves and loads it.",
            "Save it once with AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER) and give that folder.",
        )
    return dataclasses.replace(saved, source=loaded.source)


def _train(settings: PrepareSettings, source: Source, folder: Path) -> None:
    size = settings.tokenization.vocabulary_size
    assert size is not None
    rules = build_rules(settings, source)
    gated = rules.gates_abstracts and not rules.accepts_abstract_copyright
    texts = choose_texts(
        source,
        build_gates(settings, source),
        rules.validation_fraction,
        unlicensed=frozenset({"pubmed"} if gated else ()),
    )
    megabytes = sum(map(len, texts)) / 1e6
    logger.info("training a vocabulary of %d pieces on %.1f MB of %d documents", size, megabytes, len(texts))
    train_tokenizer(texts, size, folder, settings.seed)


def _settle(
    settings: PrepareSettings, tokenizer: Tokenizer, index: BenchmarkIndex | None, tasks: int
) -> Settled:
    # Compiled code is made once, here, and not in every worker at the same time.
    tokenizer.encode_bytes(["a"], choose_dtype(tokenizer.vocabulary_size))
    alone = settings.executor.executor == "local" and count_workers(settings.executor, tasks) == 1
    return Settled(
        tasks=tasks,
        tokenizer_digest=tokenizer.digest,
        adds_bos=decide_bos(settings, tokenizer),
        index_digest=index.sha256 if index else None,
        threads=-1 if alone else 1,
    )


def _run_tasks(
    settings: PrepareSettings,
    source: Source,
    work: WorkFolder,
    settled: Settled,
    *,
    bundles: tuple[Path, ...],
    finishing: bool,
) -> Spread:
    """Read every part of the input that is not done yet, or have it read."""
    progress_file = work.path / PROGRESS_FILE
    tasks = settled.tasks

    def is_there(rank: int) -> bool:
        files = [file for _, file in source.part(rank, tasks)]
        return is_current(task_folder(work.tasks, rank), files)

    forget_lost_tasks(work.path / MARKS_FOLDER, is_there)
    total = None if source.size is None else source.size / 1e6
    with (
        Progress("reading", total, "MB of input") as progress,
        watch_progress(progress_file, tasks, lambda size: progress.advance(size / 1e6)),
    ):
        spread = spread_tasks(settings, source, work.path, settled, bundles=bundles, finishing=finishing)
    if spread.resumed and not finishing:
        logger.info("went on where the same job stopped: %d of %d tasks were done", spread.resumed, tasks)
    return spread
