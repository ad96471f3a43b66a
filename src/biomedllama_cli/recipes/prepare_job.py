"""What makes one `prepare` job the same as another."""

from __future__ import annotations

from typing import Any

from biomedllama_cli.corpus.job import hash_job, list_versions
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.corpus.work_folder import WorkIdentity
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.settings.prepare import PrepareSettings


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


def hash_finished_job(settings: PrepareSettings, source: Source, loaded: Tokenizer | None) -> str:
    """Return the fingerprint of everything the finished corpus depends on.

    Args:
        settings: all settings.
        source: the whole input.
        loaded: the given tokenizer, or None when one is trained.
    """
    facts = _describe_job(settings, source, loaded)
    return hash_job({**facts, "on_bad_record": settings.source.on_bad_record})


def identify_work(
    settings: PrepareSettings, source: Source, loaded: Tokenizer | None, tasks: int
) -> WorkIdentity:
    """Return what finished tasks must have in common to become one corpus."""
    facts = _describe_job(settings, source, loaded)
    if loaded is not None and source.hub is None:
        # A task notes the sizes and times of its own files (steps.is_current), so that mending one file costs
        # no other task; a vocabulary depends on all of them.
        facts["inputs"] = source.list_paths()
    return WorkIdentity(hash_job(facts), tasks, settings.source.on_bad_record == "skip")


def _describe_job(settings: PrepareSettings, source: Source, loaded: Tokenizer | None) -> dict[str, Any]:
    """Return everything the shards depend on, except how records that cannot be read are met."""
    vocabulary = [settings.tokenization.vocabulary_size, settings.seed]
    return {
        "inputs": source.identify(),
        "text_field": source.text_field,
        "max_documents": source.max_documents,
        "subset": settings.source.subset,
        "tokenizer": [loaded.kind, loaded.digest, loaded.fingerprint] if loaded else vocabulary,
        "bos": decide_bos(settings, loaded) if loaded else settings.tokenization.bos,
        "output": settings.output.model_dump(mode="json"),
        "versions": list_versions(),
    }
