"""What a corpus folder says about itself, and how one is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from biomedllama_cli.corpus.shards import Shard, load_shard
from biomedllama_cli.errors import DataError

SCHEMA_VERSION = "biomedllama.corpus/2"
MANIFEST_FILE = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
RETRIEVAL_FOLDER = "retrieval"
"""Index by which `chat` finds passages; made from the corpus when it is asked for, and no part of what it is."""
TOKEN_COUNTS_FILE = "token_counts.npy"  # noqa: S105 - a file of counts, no secret
_HINT = "Make the corpus again with `biomedllama prepare`."

Split = Literal["train", "validation"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DocumentCounts(_Record):
    """Documents: read = kept + the sum of dropped, always."""

    read: int
    """Records found in the input, broken ones included."""
    kept: int
    """Documents in the corpus."""
    train: int
    """Kept documents to train on."""
    validation: int
    """Kept documents held out."""
    dropped: dict[str, int]
    """Documents left out, by reason."""


class TokenCounts(_Record):
    """Tokens, BOS and EOS included."""

    train: int
    """Tokens of the training documents."""
    validation: int
    """Tokens of the held-out documents."""
    dropped: dict[str, int]
    """Tokens of documents left out after they were tokenised, by reason."""

    @property
    def read(self) -> int:
        """Tokens of everything that was tokenised: unique and repeated."""
        return self.train + self.validation + sum(self.dropped.values())


class ByteCounts(_Record):
    """Text sizes in bytes of UTF-8: what bits per byte are counted against."""

    train: int
    """Bytes of the training documents."""
    validation: int
    """Bytes of the held-out documents."""


class TokenizerIdentity(_Record):
    """Which tokenizer made the ids."""

    source: str
    """As given, or `trained` for a vocabulary made from the input."""
    kind: Literal["sentencepiece", "huggingface"]
    """Who turned text into ids."""
    fingerprint: str
    """SHA-256 over ids, pieces and special ids."""
    digest: str
    """SHA-256 over the tokenizer's whole definition."""
    adds_bos: bool
    """The tokenizer's own convention; what was written is the corpus' `adds_bos`."""


class ShardEntry(_Record):
    """One shard."""

    split: Split
    """Which documents it holds."""
    source: str
    """Name of the source they all came from."""
    file: str
    """Name in the corpus folder, without `.bin` and `.idx`."""
    tokens: int
    """Tokens in it."""
    documents: int
    """Documents in it."""
    sha256: str
    """SHA-256 of the `.bin` file."""


class SourceEntry(_Record):
    """One source."""

    name: str
    """`pile`, `pubmed`, `pmc`, `text`, `sample` or `replay`."""
    weight: float
    """Passes over its training documents in one epoch."""
    documents: DocumentCounts
    """Its documents read, kept and dropped."""
    train_tokens: int
    """Tokens of its training documents."""
    validation_tokens: int
    """Tokens of its held-out documents."""


class FileEntry(_Record):
    """One more file of the corpus folder."""

    file: str
    """Its name."""
    sha256: str
    """SHA-256 of the file."""


class InputEntry(_Record):
    """One input."""

    path: str
    """File name as given, or hub id."""
    size: int | None
    """Bytes on disk, where known."""
    sha256: str | None
    """SHA-256 of the file, where there is one."""


class CorpusManifest(_Record):
    """Everything needed to say what a corpus is and to make it again."""

    schema_version: str = SCHEMA_VERSION
    """Changes when a reader of this file would have to."""
    name: str
    """Name of the corpus folder when it was made."""
    job: str
    """SHA-256 over input, tokenizer and settings: equal jobs give equal corpora."""
    documents: DocumentCounts
    """Documents read, kept and dropped."""
    tokens: TokenCounts
    """Tokens by split and reason."""
    bytes: ByteCounts
    """Bytes of text by split."""
    adds_bos: bool
    """Whether each document here begins with BOS."""
    bos_id: int | None
    """Id of BOS, or null."""
    eos_id: int
    """Id of EOS, which ends each document."""
    vocabulary_size: int
    """Number of ids."""
    tokenizer: TokenizerIdentity
    """Which tokenizer made the ids."""
    shards: tuple[ShardEntry, ...]
    """The shards, in order."""
    sources: tuple[SourceEntry, ...] = ()
    """The sources, in the order they were read."""
    files: tuple[FileEntry, ...] = ()
    """Tables, reports and the data card beside the shards."""
    decontamination: dict[str, Any] = {}
    """Which benchmarks were looked for, and what was found."""
    inventory: dict[str, Any] | None = None
    """Day, SHA-256 and counts of the inventory that articles were fetched by, or null."""
    inputs: tuple[InputEntry, ...]
    """The inputs, in the order they were read; for very many, the one file that lists them."""
    settings: dict[str, Any]
    """All settings of the command."""
    versions: dict[str, str]
    """Versions of this program and of the libraries that touch the result."""
    created: str
    """When, in UTC (ISO 8601)."""
    command: str
    """The command line."""


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
        train: shards to train on.
        validation: held-out shards; empty when nothing was held out.
        tokenizer_folder: a folder plain transformers loads.
        others: more corpora that are part of this one (see `merging`).
    """

    folder: Path
    manifest: CorpusManifest
    train: list[Shard]
    validation: list[Shard]
    tokenizer_folder: Path
    others: tuple[Corpus, ...] = ()

    def load_token_counts(self) -> npt.NDArray[np.int64]:
        """Return how often each id occurs in training, int64 [vocabulary_size]."""
        counts: npt.NDArray[np.int64] = np.load(self.folder / TOKEN_COUNTS_FILE)
        return counts + sum(other.load_token_counts() for other in self.others)

    def list_train_sources(self) -> list[str]:
        """Return the source of every training shard, in order."""
        return [entry.source for entry in self.manifest.shards if entry.split == "train"]


def load_manifest(folder: Path) -> CorpusManifest:
    """Read a corpus' manifest.

    Raises:
        DataError: there is none, or it is not one this program reads.
    """
    path = folder / MANIFEST_FILE
    try:
        return CorpusManifest.model_validate_json(path.read_bytes())
    except OSError:
        if not folder.exists():
            raise DataError(
                f"There is no corpus {folder}.", "Make one with `biomedllama prepare`, or check the path."
            ) from None
        raise DataError(f"{folder} is not a corpus: it has no readable {MANIFEST_FILE}.", _HINT) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{path} is not a manifest of {SCHEMA_VERSION}: {where}: {first['msg']}.", _HINT
        ) from None
    except ValueError:
        raise DataError(f"No folder can have the name {str(folder)!r}.", "Check the path.") from None


def load_corpus(folder: Path) -> Corpus:
    """Open a corpus folder and check that its files are those its manifest lists.

    Raises:
        DataError: the manifest or a shard is missing, damaged or of another corpus.
    """
    manifest = load_manifest(folder)
    if manifest.schema_version != SCHEMA_VERSION:
        raise DataError(f"{folder} is a corpus of {manifest.schema_version}, not of {SCHEMA_VERSION}.", _HINT)
    splits: dict[Split, list[Shard]] = {"train": [], "validation": []}
    for entry in manifest.shards:
        if Path(entry.file).name != entry.file:
            raise DataError(
                f"{folder / MANIFEST_FILE} lists a shard outside its folder: {entry.file}.", _HINT
            )
        shard = load_shard(folder / entry.file)
        found = (len(shard.token_ids), len(shard.document_starts) - 1)
        if found != (entry.tokens, entry.documents):
            raise DataError(
                f"Shard {shard.path} has {found[0]} tokens in {found[1]} documents, and the manifest says "
                f"{entry.tokens} in {entry.documents}.",
                _HINT,
            )
        splits[entry.split].append(shard)
    tokenizer_folder = folder / TOKENIZER_FOLDER
    if not tokenizer_folder.is_dir():
        raise DataError(f"{folder} has no {TOKENIZER_FOLDER} folder.", _HINT)
    return Corpus(folder, manifest, splits["train"], splits["validation"], tokenizer_folder)


def find_newest_corpus(workspace: Path) -> Path | None:
    """Return the corpus under `workspace/corpora` that was finished last, or None."""
    found = [
        (manifest.stat().st_mtime_ns, manifest.parent)
        for manifest in (workspace / "corpora").glob(f"[!.]*/{MANIFEST_FILE}")
    ]
    return max(found)[1] if found else None
