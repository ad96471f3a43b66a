"""Records streamed from a dataset of the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedllama_cli.corpus.document import Dropped, Record
from biomedllama_cli.corpus.sources.files import InputFile
from biomedllama_cli.corpus.sources.pile import build_record
from biomedllama_cli.errors import DataError, UnavailableError, UserError

logger = logging.getLogger(__name__)

_SECONDS_TO_ANSWER = 10.0
_HINT = (
    "Give files of your own with --input PATH, or try the bundled text with --sample; "
    "with a network, unset HF_HUB_OFFLINE and run the same command again."
)


@dataclass(frozen=True)
class HubDataset:
    """A dataset split at one fixed commit.

    Attributes:
        name: hub id, or a local folder in the hub's layout.
        split: its split.
        revision: commit, so that a resumed job reads the same data; None for a local folder.
        shards: files it can be read from side by side.
    """

    name: str
    split: str
    revision: str | None
    shards: int

    @property
    def label(self) -> str:
        """How the manifest names it."""
        commit = f"@{self.revision}" if self.revision else ""
        return f"hub:{self.name}{commit}/{self.split}"

    def identify(self) -> list[Any]:
        """Return what tells its data from other data: the commit, or the files of a local folder."""
        folder = Path(self.name)
        if self.revision is not None or not folder.is_dir():
            return [self.label]
        files = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
        stamps = [[str(path.relative_to(folder)), s.st_size, s.st_mtime_ns] for path, s in files]
        return [self.label, str(folder.resolve()), stamps]


def open_hub_dataset(name: str, split: str) -> HubDataset:
    """Ask the hub for a dataset's commit and number of files.

    Raises:
        UnavailableError: the hub does not answer within seconds, or offline mode is on.
        DataError: there is no such dataset or split.
    """
    revision = None if Path(name).is_dir() else _ask_for_commit(name)
    dataset = _stream(name, split, revision)
    return HubDataset(name, split, revision, max(int(dataset.num_shards), 1))


@dataclass(frozen=True)
class HubReader:
    """Records of a hub dataset; each of its shards counts as an input.

    Attributes:
        dataset: the dataset at its commit.
        text_field: column that holds the text.
    """

    dataset: HubDataset
    text_field: str = "text"

    def list_inputs(self, patterns: tuple[str, ...]) -> list[InputFile]:
        """Return the dataset's shards; `patterns` name nothing here."""
        count = self.dataset.shards
        return [
            InputFile(Path(str(i)), f"{self.dataset.label}, part {i + 1} of {count}", 0, 0, on_disk=False)
            for i in range(count)
        ]

    def iter_documents(
        self, file: InputFile, report_position: Callable[[int], None]
    ) -> Iterator[Record | Dropped]:
        """Yield the records of one shard."""
        dataset = self.dataset
        part = _stream(dataset.name, dataset.split, dataset.revision)
        part = part.shard(num_shards=dataset.shards, index=int(file.path.name))
        number = characters = 0
        try:
            for number, row in enumerate(part, start=1):
                record = build_record(row, self.text_field, f"{file.label}, record {number}")
                yield record
                characters += len(record.text)
                report_position(characters)
        except UserError:  # a signal is told by one
            raise
        except Exception as error:
            raise _explain(error, dataset.name, f"after record {number} of {file.label}") from error

    def identify(self) -> dict[str, Any]:
        """Return what tells the data and its reading from others."""
        return {"hub": self.dataset.identify(), "text_field": self.text_field}


def _ask_for_commit(name: str) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise UnavailableError(f"The hub dataset {name!r} cannot be read: HF_HUB_OFFLINE is set.", _HINT)
    try:
        commit = HfApi().dataset_info(name, timeout=_SECONDS_TO_ANSWER).sha
    except UserError:  # a signal is told by one
        raise
    except Exception as error:
        raise _explain(error, name, "when asked for its commit") from None
    return str(commit) if commit else None


def _stream(name: str, split: str, revision: str | None) -> Any:
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, split=split, revision=revision, streaming=True)
    except UserError:  # a signal is told by one
        raise
    except Exception as error:
        raise _explain(error, name, f"when split {split!r} was opened") from None


def _explain(error: Exception, name: str, when: str) -> DataError | UnavailableError:
    """Tell a hub that cannot be reached from data that is not there or not readable."""
    import datasets
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    logger.debug("hub: %r", error)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    missing = (RepositoryNotFoundError, HFValidationError, datasets.exceptions.DatasetNotFoundError)
    if isinstance(error, missing):
        return DataError(f"The hub has no dataset {name!r} ({when}): {reason}", _HINT)
    if isinstance(error, (ValueError, datasets.exceptions.DatasetGenerationError)):
        return DataError(f"The hub dataset {name!r} cannot be read {when}: {reason}", _HINT)
    return UnavailableError(f"The hub cannot be reached for {name!r} {when}: {reason}", _HINT)
