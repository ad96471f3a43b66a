"""What stopped a model from being loaded, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from biomedllama_cli.errors import ModelError, UnavailableError


def explain_load_error(source: str, folder: Path | None, error: Exception) -> ModelError | UnavailableError:
    """Turn what transformers raises while it loads a model into one sentence.

    Args:
        source: as it was asked for.
        folder: that it names, or None for a hub id.
        error: what was raised.
    """
    reason = " ".join(str(error).split())[:300]
    if folder is not None:
        return ModelError(
            f"model: the folder {source} cannot be loaded: {reason}",
            hint="A safetensors folder of a causal language model known to transformers is needed; "
            "code inside a model folder is never run.",
        )
    causes = list(_iter_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return UnavailableError(
            f"model: {source} is gated on the hub.", hint="Accept its terms there, then run `hf auth login`."
        )
    absent = (RepositoryNotFoundError, EntryNotFoundError, HFValidationError)
    if any(isinstance(c, absent) and not isinstance(c, LocalEntryNotFoundError) for c in causes):
        return ModelError(
            f"model: the hub has no usable model {source}: {reason}",
            hint="Check the id, or give a local folder.",
        )
    if isinstance(error, OSError):
        return UnavailableError(
            f"model: {source} is not in the cache and the hub cannot be reached.",
            hint="Give a local folder, or go online once.",
        )
    return ModelError(f"model: {source} cannot be loaded: {reason}", hint="Is it a causal language model?")


def _iter_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
