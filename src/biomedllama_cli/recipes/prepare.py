"""`biomedllama prepare`: text in, token shards out."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from biomedllama_cli.corpus.assembly import Assembled, assemble
from biomedllama_cli.corpus.executor import forget_lost_tasks, resumable_on_signals, run_tasks, watch_progress
from biomedllama_cli.corpus.job import (
    check_output,
    find_finished,
    list_versions,
    resolve_output,
)
from biomedllama_cli.corpus.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FOLDER,
    CorpusManifest,
    InputEntry,
    TokenizerIdentity,
)
from biomedllama_cli.corpus.shards import choose_dtype
from biomedllama_cli.corpus.source import Source, build_source
from biomedllama_cli.corpus.steps import KeepWanted, ReadRecords, WriteTokens, is_current, task_folder
from biomedllama_cli.corpus.vocabulary import choose_texts
from biomedllama_cli.corpus.work_folder import WorkFolder, open_work_folder
from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from biomedllama_cli.recipes.prepare_job import decide_bos, hash_finished_job, identify_work
from biomedllama_cli.recipes.prepare_report import PrepareReport
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.prepare import PrepareSettings

logger = logging.getLogger(__name__)

DEFAULT_TOKENIZER = "huggyllama/llama-7b"
_TRAINED = "trained"


def prepare(settings: PrepareSettings, *, dry_run: bool = False) -> PrepareReport:
    """Turn biomedical text into a corpus folder.

    Raises:
        UserError: input, tokenizer or output folder cannot be used, or a signal stopped the run.
    """
    output = _find_output(settings)
    if dry_run:
        return _plan(settings, output)
    started = time.monotonic()
    source = build_source(settings.source)
    tasks = source.count_tasks(settings.executor.tasks)
    loaded = _load_given_tokenizer(settings)
    job = hash_finished_job(settings, source, loaded)
    report: dict[str, Any] = {
        "output_dir": str(output),
        "inputs": len(source.labels),
        "input_bytes": source.size,
        "tasks": tasks,
        "tokenizer": loaded.source if loaded else _TRAINED,
    }
    finished = find_finished(output, job)
    if finished is not None:
        return PrepareReport(state="already_finished", manifest=finished, **report)
    check_output(output, overwrite=settings.overwrite)
    identity = identify_work(settings, source, loaded, tasks)
    with (
        resumable_on_signals(),
        open_work_folder(output, identity, overwrite=settings.overwrite) as work,
    ):
        tokenizer = _settle_tokenizer(settings, source, loaded, work)
        resumed = _run_tasks(settings, source, work, tokenizer, tasks)
        assembled = _assemble(settings, tokenizer, work, tasks)
        manifest = _describe_corpus(settings, source, tokenizer, assembled, job)
        shutil.copytree(work.path / TOKENIZER_FOLDER, work.corpus / TOKENIZER_FOLDER)
        (work.corpus / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        work.publish(overwrite=settings.overwrite)
    seconds = round(time.monotonic() - started, 2)
    return PrepareReport(
        state="finished", manifest=manifest, tasks_resumed=resumed, seconds=seconds, **report
    )


def name_corpus(settings: PrepareSettings) -> str:
    """Return the default name of the corpus folder: the input's name and the subset.

    >>> name_corpus(PrepareSettings.model_validate({"source": {"sample": True}}))
    'sample'
    >>> name_corpus(PrepareSettings.model_validate({"source": {"subset": "pubmed-central"}}))
    'pubmed-central'
    """
    source = settings.source
    parts: list[str] = [source.subset] if source.subset else []
    if source.sample:
        parts.insert(0, "sample")
    elif source.input:
        name = Path(source.input[0]).name.split(".")[0]
        parts.insert(0, name if re.fullmatch(r"[\w-]+", name) else "corpus")
    elif not parts:
        parts.append(source.hub_dataset.rstrip("/").split("/")[-1])
    return "-".join(parts)


def _find_output(settings: PrepareSettings) -> Path:
    return resolve_output(settings.output_dir or settings.workspace / "corpora" / name_corpus(settings))


def _plan(settings: PrepareSettings, output: Path) -> PrepareReport:
    """Say what would happen, without the network and without writing."""
    uses_hub = not (settings.source.sample or settings.source.input)
    source = None if uses_hub else build_source(settings.source)
    wanted = settings.tokenization.tokenizer or DEFAULT_TOKENIZER
    size = settings.tokenization.vocabulary_size
    on_hub = size is None and not Path(wanted).expanduser().exists()
    loaded = None if on_hub else _load_given_tokenizer(settings)
    finished = None
    if source is not None and not on_hub:  # else only the hub could tell whether it is the same job
        finished = find_finished(output, hash_finished_job(settings, source, loaded))
        if finished is None:
            check_output(output, overwrite=settings.overwrite)
    return PrepareReport(
        state="planned" if finished is None else "already_finished",
        output_dir=str(output),
        inputs=len(source.labels) if source else 1,
        input_bytes=source.size if source else None,
        tasks=source.count_tasks(settings.executor.tasks) if source else settings.executor.tasks or 1,
        tokenizer=f"a new vocabulary of {size:,} pieces" if size else wanted,
        manifest=finished,
    )


def _load_given_tokenizer(settings: PrepareSettings) -> Tokenizer | None:
    """Load the tokenizer, or return None when one is to be trained."""
    if settings.tokenization.vocabulary_size is not None:
        return None
    tokenizer = load_tokenizer(settings.tokenization.tokenizer or DEFAULT_TOKENIZER)
    decide_bos(settings, tokenizer)  # a contradiction is told before any work
    return tokenizer


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
    texts = choose_texts(source, settings.source.subset, settings.output.validation_fraction)
    megabytes = sum(map(len, texts)) / 1e6
    logger.info("training a vocabulary of %d pieces on %.1f MB of %d documents", size, megabytes, len(texts))
    train_tokenizer(texts, size, folder, settings.seed)


def _run_tasks(
    settings: PrepareSettings, source: Source, work: WorkFolder, tokenizer: Tokenizer, tasks: int
) -> int:
    """Tokenise every part of the input that is not done yet; return how many were."""
    workers = min(settings.executor.workers, tasks)
    progress_file = work.path / "progress.u64"
    marks = work.path / "executor"
    forget_lost_tasks(marks, lambda rank: is_current(task_folder(work.tasks, rank), source.part(rank, tasks)))
    reader = ReadRecords(source, skip_bad=settings.source.on_bad_record == "skip", progress=progress_file)
    pipeline = [
        reader,
        KeepWanted(settings.source.subset),
        WriteTokens(
            reader,
            work.path / TOKENIZER_FOLDER,
            work.tasks,
            digest=tokenizer.digest,
            adds_bos=decide_bos(settings, tokenizer),
            threads=-1 if workers == 1 else 1,
        ),
    ]
    total = None if source.size is None else source.size / 1e6
    with (
        Progress("tokenising", total, "MB of input") as progress,
        watch_progress(progress_file, tasks, lambda size: progress.advance(size / 1e6)),
    ):
        resumed = run_tasks(pipeline, tasks=tasks, workers=workers, folder=marks)
    if resumed:
        logger.info("went on where the same job stopped: %d of %d tasks were done", resumed, tasks)
    return resumed


def _assemble(settings: PrepareSettings, tokenizer: Tokenizer, work: WorkFolder, tasks: int) -> Assembled:
    folders = [task_folder(work.tasks, rank) for rank in range(tasks)]
    dtype = choose_dtype(tokenizer.vocabulary_size)
    total = sum((folder / "tokens.bin").stat().st_size for folder in folders) / dtype.itemsize / 1e6
    with Progress("writing shards", total, "million tokens") as progress:
        assembled = assemble(
            folders,
            work.corpus,
            dtype=dtype,
            vocabulary_size=tokenizer.vocabulary_size,
            validation_fraction=settings.output.validation_fraction,
            shard_tokens=settings.output.shard_tokens,
            on_progress=lambda tokens: progress.advance(tokens / 1e6),
        )
    documents = assembled.documents
    if documents.kept == 0:
        work.forget_tasks()  # or the command with another --subset would be refused for their sake
        dropped = ", ".join(f"{count} {reason}" for reason, count in documents.dropped.items()) or "none"
        raise DataError(
            f"No document is left of {documents.read} records read (dropped: {dropped}).",
            "Check --input and --subset: a subset keeps records by their meta.pile_set_name.",
        )
    if assembled.tokens.validation == 0 and settings.output.validation_fraction > 0:
        logger.warning("the corpus has one document only: nothing is held out for validation")
    return assembled


def _describe_corpus(
    settings: PrepareSettings, source: Source, tokenizer: Tokenizer, assembled: Assembled, job: str
) -> CorpusManifest:
    hub = (
        tuple(InputEntry(path=label, size=None, sha256=None) for label in source.labels) if source.hub else ()
    )
    trained = settings.tokenization.vocabulary_size is not None
    return CorpusManifest(
        name=_find_output(settings).name,
        job=job,
        documents=assembled.documents,
        tokens=assembled.tokens,
        bytes=assembled.bytes,
        adds_bos=decide_bos(settings, tokenizer),
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        vocabulary_size=tokenizer.vocabulary_size,
        tokenizer=TokenizerIdentity(
            source=_TRAINED if trained else tokenizer.source,
            kind=tokenizer.kind,
            fingerprint=tokenizer.fingerprint,
            digest=tokenizer.digest,
            adds_bos=tokenizer.adds_bos,
        ),
        shards=assembled.shards,
        inputs=hub or assembled.inputs,
        settings=settings.model_dump(mode="json"),
        versions=list_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=shlex.join(sys.argv),
    )
