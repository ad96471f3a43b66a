"""What `prepare` is about to do: where it writes, what it reads, and with --dry-run an estimate of the result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from biomedllama_cli.corpus.job import check_output, find_finished, resolve_output
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.recipes.prepare_estimate import estimate_source
from biomedllama_cli.recipes.prepare_fetch import check_inventory
from biomedllama_cli.recipes.prepare_job import (
    DEFAULT_TOKENIZER,
    TRAINED,
    build_benchmark_index,
    hash_finished_job,
    load_given_tokenizer,
)
from biomedllama_cli.recipes.prepare_report import PrepareReport
from biomedllama_cli.recipes.prepare_source import build_source, check_inputs
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
    check_inventory(settings)
    check_inputs(settings)
    source = None if _uses_network(settings) else build_source(settings)
    wanted = settings.tokenization.tokenizer or DEFAULT_TOKENIZER
    size = settings.tokenization.vocabulary_size
    on_hub = size is None and not Path(wanted).expanduser().exists()
    loaded = None if on_hub else load_given_tokenizer(settings)
    finished = estimate = None
    if source is not None and not on_hub:  # else only the network could tell whether it is the same job
        index = build_benchmark_index(settings)
        finished = find_finished(
            output, hash_finished_job(settings, source, loaded, index.sha256 if index else None)
        )
        if finished is None:
            check_output(output, overwrite=settings.overwrite)
            if loaded is not None:
                estimate = estimate_source(settings, source, loaded)
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
    )


def _uses_network(settings: PrepareSettings) -> bool:
    source = settings.source
    on_hub = not (source.sample or source.input or Path(source.hub_dataset).is_dir())
    return on_hub or settings.bucket.inventory is not None
