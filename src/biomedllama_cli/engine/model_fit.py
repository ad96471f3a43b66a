"""Whether a model and a corpus belong together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from biomedllama_cli.corpus.manifest import CorpusManifest
from biomedllama_cli.errors import ModelError, SettingsError, UserError
from biomedllama_cli.models.description import ModelDescription, describe_model
from biomedllama_cli.models.scratch import SCRATCH_PREFIX
from biomedllama_cli.models.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def describe_config(config: Any) -> ModelDescription:
    """Return the facts of the model a configuration describes; no memory is taken for its weights."""
    with torch.device("meta"):
        return describe_model(AutoModelForCausalLM.from_config(config))


def check_model_fits(source: str, config: Any, manifest: CorpusManifest, sequence_length: int) -> None:
    """Check vocabulary, positions and tokenizer of a model against a corpus.

    Args:
        source: hub id, folder or `scratch:NAME`, as given.
        config: configuration of the text model.
        manifest: of the corpus.
        sequence_length: of the packed sequences (in tokens).

    Raises:
        ModelError: the vocabulary is too small, or the tokenizer is another.
        SettingsError: the sequences are longer than the model's positions.
    """
    if config.vocab_size < manifest.vocabulary_size:
        raise ModelError(
            f"model: {source} has {config.vocab_size:,} embeddings, fewer than the {manifest.vocabulary_size:,} "
            f"pieces of the corpus {manifest.name}.",
            hint="Prepare the corpus with this model's own tokenizer.",
        )
    check_positions(source, find_positions(config), sequence_length)
    check_tokenizer(source, manifest)


def find_positions(config: Any) -> int | None:
    """Return the positions of the model a configuration describes, or None where it sets no limit."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    return positions


def check_positions(source: str, positions: int | None, sequence_length: int) -> None:
    """Check that sequences are no longer than a model's positions.

    Raises:
        SettingsError: they are.
    """
    if positions is not None and sequence_length > positions:
        raise SettingsError(
            f"batch.sequence_length = {sequence_length} must be at most {positions}, the positions of {source}.",
            hint=f"Use --sequence-length {positions} or less.",
        )


def check_tokenizer(source: str, manifest: CorpusManifest) -> None:
    """Check that a model's own tokenizer, where it has one, is the one that made the corpus.

    Raises:
        ModelError: it is another.
    """
    if source.startswith(SCRATCH_PREFIX):
        return
    folder = Path(source).expanduser()
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        logger.info("model: %s has no tokenizer of its own to compare with the corpus", source)
        return
    try:
        tokenizer = load_tokenizer(source)
    except UserError as error:
        logger.warning("model: its tokenizer could not be compared with the corpus: %s", error.message)
        return
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        raise ModelError(
            f"model: the tokenizer of {source} ({tokenizer.vocabulary_size:,} pieces, fingerprint "
            f"{tokenizer.fingerprint[:12]}) is not the one that made the corpus {manifest.name} "
            f"({manifest.tokenizer.source}, {manifest.vocabulary_size:,} pieces, fingerprint "
            f"{manifest.tokenizer.fingerprint[:12]}).",
            hint=f"Prepare the corpus again with --tokenizer {source}.",
        )
