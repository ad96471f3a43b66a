"""What `prepare` is about to do: where it writes, what it reads, and with --dry-run an estimate of the result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biomedllama_cli.corpus.decontamination.items import parse_benchmarks
from biomedllama_cli.corpus.job import check_output, find_finished, resolve_output
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.recipes.prepare_estimate import estimate_source
from biomedllama_cli.recipes.prepare_job import (
    DEFAULT_TOKENIZER,
    TRAINED,
    build_benchmark_index,
    hash_finished_job,
    load_given_tokenizer,
)
from biomedllama_cli.recipes.prepare_report import PrepareReport
from biomedllama_cli.recipes.prepare_source import build_source, decontamination_mode, is_local
from biomedllama_cli.settings.prepare import PrepareSettings


def name_corpus(settings: PrepareSettings) -> str:
    """Return the default name of the corpus folder: the sources' names, or the input's name and the subset.

    >>> name_corpus(PrepareSettings.model_validate({"source": {"sample": True}}))
    'sample'
    >>> name_corpus(PrepareSettings.model_validate({"source": {"subset": "pubmed-central"}}))
    'pubmed-central'
    """
    source = settings.source
    parts: list[str] = [source.subset] if source.subset else []
    if source.sample:
        parts.insert(0, "sample")
    elif source.source and source.source != ("pile",):
        parts = list(dict.fromkeys(source.source))
    elif source.input:
        name = Path(source.input[0]).name.split(".")[0]
        parts.insert(0, name if re.fullmatch(r"[\w-]+", name) else "corpus")
    elif not parts:
        parts.append(source.hub_dataset.rstrip("/").split("/")[-1])
    return "-".join(parts)


def find_output(settings: PrepareSettings) -> Path:
    """Return where the corpus goes.

    Raises:
        OutputError: there can be no such folder.
    """
    return resolve_output(settings.output_dir or settings.workspace / "corpora" / name_corpus(settings))


def describe_input(
    settings: PrepareSettings, source: Source, output: Path, tasks: int, loaded: Tokenizer | None
) -> dict[str, Any]:
    """Return what every report says of the job."""
    return {
        "output_dir": str(output),
        "inputs": len(source.inputs),
        "input_bytes": source.size,
        "tasks": tasks,
        "tokenizer": loaded.source if loaded else TRAINED,
    }


def plan(settings: PrepareSettings, output: Path) -> PrepareReport:
    """Say what would happen, without the network and without writing."""
    missing = _list_what_needs_the_network(settings)
    here = settings
    if "replay" in missing:
        here = settings.model_copy(update={"replay": settings.replay.model_copy(update={"replay": None})})
    source = None if "input" in missing else build_source(here)
    wanted = settings.tokenization.tokenizer or DEFAULT_TOKENIZER
    size = settings.tokenization.vocabulary_size
    loaded = None if "tokenizer" in missing else load_given_tokenizer(settings)
    finished = estimate = None
    if source is not None and not missing:  # else only the network could tell whether it is the same job
        index = build_benchmark_index(settings)
        finished = find_finished(
            output, hash_finished_job(settings, source, loaded, index.sha256 if index else None)
        )
        if finished is None:
            check_output(output, overwrite=settings.overwrite)
    if source is not None and finished is None and loaded is not None:
        estimate = estimate_source(here, source, loaded)
    tasks = settings.executor.tasks
    return PrepareReport(
        state="planned" if finished is None else "already_finished",
        output_dir=str(output),
        inputs=len(source.inputs) if source else 1,
        input_bytes=source.size if source else None,
        tasks=source.count_tasks(tasks) if source else tasks or 1,
        tokenizer=f"a new vocabulary of {size:,} pieces" if size else wanted,
        manifest=finished,
        estimate=estimate,
        fetches=missing.get("input"),
        unknown=tuple(_explain_unknown(settings, missing, has_estimate=estimate is not None)),
        stops_at_unreadable=settings.source.on_bad_record == "error",
    )


def _list_what_needs_the_network(settings: PrepareSettings) -> dict[str, str]:
    """Return what a dry run cannot look at, each with the words for it."""
    source, bucket, replay = settings.source, settings.bucket, settings.replay.replay
    wanted = settings.tokenization.tokenizer or DEFAULT_TOKENIZER
    missing = {}
    if bucket.inventory is not None:
        missing["input"] = f"the articles of inventory {bucket.inventory} of {bucket.bucket_url}"
    elif not (source.sample or source.input or Path(source.hub_dataset).is_dir()):
        missing["input"] = f"the hub dataset {source.hub_dataset}"
    if settings.tokenization.vocabulary_size is None and not Path(wanted).expanduser().exists():
        missing["tokenizer"] = f"the tokenizer {wanted} is on the hub; give a folder or file with --tokenizer"
    if replay is not None and not is_local(replay):
        missing["replay"] = f"the hub dataset {replay} of --replay"
    on_hub = [one.name for one in parse_benchmarks(settings.decontamination.benchmark) if one.file is None]
    if on_hub and decontamination_mode(settings) != "off":
        missing["benchmarks"] = f"{', '.join(on_hub)} of --benchmark"
    return missing


def _explain_unknown(
    settings: PrepareSettings, missing: dict[str, str], *, has_estimate: bool
) -> Iterator[str]:
    """Yield what was not looked at, one line each."""
    if "input" in missing:
        yield "No estimate of tokens: a dry run does not use the network, and the input is not here"
    elif "tokenizer" in missing:
        yield f"No estimate of tokens: {missing['tokenizer']}"
    elif settings.tokenization.vocabulary_size is not None:
        yield "No estimate of tokens: the vocabulary is yet to be trained"
    elif not has_estimate:
        yield "No estimate of tokens: the size of the input is not known"
    others = [missing[name] for name in ("replay", "benchmarks") if name in missing]
    if others:
        yield f"Not looked at, for it is on the hub: {'; '.join(others)}"
