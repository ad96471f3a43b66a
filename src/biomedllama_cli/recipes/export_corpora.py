"""The corpora of a run, and how often it had read them when a checkpoint was saved."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomedllama_cli.corpus.manifest import CorpusManifest, load_corpus
from biomedllama_cli.engine.checkpoint_folder import load_progress
from biomedllama_cli.errors import DataError, UserError

logger = logging.getLogger(__name__)


def list_corpora(settings: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """Return the corpora of a run as its settings name them, or its report the one that it chose."""
    first = settings.get("corpus") or report.get("corpus")
    return [str(name) for name in (first, *settings.get("mix", ())) if name]


def open_corpora(places: Mapping[str, Path]) -> tuple[dict[Path, CorpusManifest], tuple[str, ...]]:
    """Return what the corpora that are at hand say of themselves, by folder, and the names of the others.

    Args:
        places: folders by name.
    """
    corpora: dict[Path, CorpusManifest] = {}
    missing = []
    for name, place in places.items():
        try:
            corpora[place] = load_corpus(place).manifest
        except UserError as error:
            logger.warning("the corpus %s is not at hand: %s", name, error.message)
            missing.append(name)
    return corpora, tuple(missing)


def count_passes(
    corpora: Mapping[Path, CorpusManifest], checkpoint: Path, continued: Path | None
) -> dict[tuple[Path, str], float]:
    """Return how often a run had read each source of its corpora, which must be all; empty where that is not known.

    Args:
        corpora: by folder.
        checkpoint: of the run.
        continued: another run's checkpoint, whose tokens are counted there.
    """
    try:
        progress = load_progress(checkpoint, "CHECKPOINT")
        before = 0 if continued is None else load_progress(continued, "CHECKPOINT").tokens_seen
        mixture = {str(name): float(weight) for name, weight in dict(progress.order["mixture"]).items()}
    except (DataError, KeyError, TypeError, ValueError):
        return {}
    tokens, weights = {}, {}
    for folder, manifest in corpora.items():
        for source in manifest.sources:
            key = (folder, source.name)
            tokens[key] = source.train_tokens
            # Sources of one name are told apart by their corpus.
            weights[key] = mixture.get(
                f"{folder.resolve().name}/{source.name}", mixture.get(source.name, 0.0)
            )
    epoch = sum(weight * tokens[key] for key, weight in weights.items())
    if not epoch > 0:
        return {}
    return {key: weight * (progress.tokens_seen - before) / epoch for key, weight in weights.items()}
