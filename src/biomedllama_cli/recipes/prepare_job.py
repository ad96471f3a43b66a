"""What makes one `prepare` job the same as another."""

from __future__ import annotations

from typing import Any

from biomedllama_cli.corpus.decontamination.build import build_index
from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex
from biomedllama_cli.corpus.decontamination.items import load_items, parse_benchmarks
from biomedllama_cli.corpus.job import hash_job, list_versions
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.corpus.work_folder import WorkIdentity
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer
from biomedllama_cli.recipes.prepare_source import decontamination_mode
from biomedllama_cli.settings.prepare import PrepareSettings

DEFAULT_TOKENIZER = "huggyllama/llama-7b"
TRAINED = "trained"
"""What a corpus says of a vocabulary made from its own text."""


def load_given_tokenizer(settings: PrepareSettings) -> Tokenizer | None:
    """Load the tokenizer, or return None when one is to be trained."""
    if settings.tokenization.vocabulary_size is not None:
        return None
    tokenizer = load_tokenizer(settings.tokenization.tokenizer or DEFAULT_TOKENIZER)
    decide_bos(settings, tokenizer)  # a contradiction is told before any work
    return tokenizer


def build_benchmark_index(settings: PrepareSettings) -> BenchmarkIndex | None:
    """Return the index of the benchmark items to look for, or None.

    Raises:
        SettingsError: a benchmark is unknown.
        DataError: its file cannot be used.
        UnavailableError: it is on the hub, which cannot be reached.
    """
    if decontamination_mode(settings) == "off":
        return None
    return build_index(*load_items(parse_benchmarks(settings.decontamination.benchmark)))


def decide_bos(settings: PrepareSettings, tokenizer: Tokenizer) -> bool:
    """Return whether BOS is put before each document.

    Raises:
        SettingsError: it is asked for, and the tokenizer has none.
    """
    wanted = settings.tokenization.bos
    if wanted == "always" and tokenizer.bos_id is None:
        raise SettingsError(
            f"tokenization.bos = always, and the tokenizer {tokenizer.source} has no beginning-of-sequence token.",
            "Take --bos auto or --bos never.",
        )
    return tokenizer.adds_bos if wanted == "auto" else wanted == "always"


def hash_finished_job(
    settings: PrepareSettings, source: Source, loaded: Tokenizer | None, index_digest: str | None
) -> str:
    """Return the fingerprint of everything the finished corpus depends on.

    Args:
        settings: all settings.
        source: the whole input.
        loaded: the given tokenizer, or None when one is trained.
        index_digest: SHA-256 of the index of benchmark items, or None when none is looked for.
    """
    facts = _describe_job(settings, source, loaded, index_digest)
    return hash_job({**facts, "on_bad_record": settings.source.on_bad_record})


def identify_work(
    settings: PrepareSettings,
    source: Source,
    loaded: Tokenizer | None,
    index_digest: str | None,
    tasks: int,
) -> WorkIdentity:
    """Return what finished tasks must have in common to become one corpus."""
    facts = _describe_job(settings, source, loaded, index_digest)
    if loaded is not None and source.size is not None:
        # A task notes the sizes and times of its own files (steps.is_current), so that mending one file costs
        # no other task; a vocabulary depends on all of them.
        facts["inputs"] = source.list_paths()
    return WorkIdentity(hash_job(facts), tasks, settings.source.on_bad_record == "skip")


def _describe_job(
    settings: PrepareSettings, source: Source, loaded: Tokenizer | None, index_digest: str | None
) -> dict[str, Any]:
    """Return everything the shards depend on, except how records that cannot be read are met."""
    vocabulary = [settings.tokenization.vocabulary_size, settings.seed]
    return {
        "inputs": source.identify(),
        "max_documents": source.max_documents,
        "subset": settings.source.subset,
        "selection": settings.selection.model_dump(mode="json"),
        "decontamination": [decontamination_mode(settings), index_digest],
        "replay": [settings.replay.replay_fraction, settings.seed] if settings.replay.replay else None,
        "tokenizer": [loaded.kind, loaded.digest, loaded.fingerprint] if loaded else vocabulary,
        "bos": decide_bos(settings, loaded) if loaded else settings.tokenization.bos,
        "output": settings.output.model_dump(mode="json"),
        "versions": list_versions(),
    }
