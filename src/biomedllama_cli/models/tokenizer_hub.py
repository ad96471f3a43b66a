"""The files of a hub repository's tokenizer, and nothing else of it."""

from __future__ import annotations

import logging
from pathlib import Path

from biomedllama_cli.errors import ModelError, UnavailableError, UserError

logger = logging.getLogger(__name__)

_HUB_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "config.json",
    "chat_template*",
)
_OFFLINE_HINT = (
    "Give a local folder or a SentencePiece file with --tokenizer PATH, train a vocabulary with "
    "--vocabulary-size N, or set HF_TOKEN and the network up for the hub."
)


def fetch_tokenizer_files(source: str, revision: str | None) -> Path:
    """Download the tokenizer's files (never weights or code) and return the cached folder.

    Raises:
        ModelError: there is no such repository.
        UnavailableError: the hub cannot be reached and the files are not cached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(_HUB_PATTERNS)))
    except HFValidationError:
        raise ModelError(f"tokenizer: {source!r} is neither a path nor a hub id.", _OFFLINE_HINT) from None
    except GatedRepoError:
        raise UnavailableError(
            f"tokenizer: the hub repository {source!r} asks for an agreement first.",
            "Accept its terms on the hub and log in with `hf auth login`.",
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"tokenizer: {source!r} is neither a local path nor a hub repository.", _OFFLINE_HINT
        ) from None
    except UserError:  # a signal is told by one
        raise
    except Exception as error:
        # Connection, timeout, offline mode: the hub client has a type of its own for each.
        logger.debug("hub: %r", error)
        raise UnavailableError(
            f"tokenizer: the hub cannot be reached for {source!r} and it is not cached here.", _OFFLINE_HINT
        ) from None
