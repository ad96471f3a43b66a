"""Splits of published data sets, read through `datasets` when a task needs them and no file is given."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biomedllama_cli.errors import UnavailableError
from biomedllama_cli.tasks.records import Record

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PARQUET = "refs/convert/parquet"


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set on the hub; of several configurations it is their rows one after the other."""

    dataset: str
    split: str
    configuration: str | tuple[str, ...] | None = None
    streaming: bool = False

    def __str__(self) -> str:
        """Return `dataset (configuration), split`."""
        named = self.configuration
        if isinstance(named, tuple):
            named = ", ".join(named)
        name = f"{self.dataset} ({named})" if named else self.dataset
        return f"{name}, {self.split} split"

    def list_parts(self) -> tuple[HubSplit, ...]:
        """Return the split of each configuration."""
        if not isinstance(self.configuration, tuple):
            return (self,)
        return tuple(replace(self, configuration=name) for name in self.configuration)


class HubRecords:
    """The records of a hub split in their published order; iterating reads them.

    Args:
        source: the split.
        data_key: what `--data` calls this input, `medqa` or `medqa.train`, for messages.
    """

    def __init__(self, source: HubSplit, data_key: str) -> None:
        self.source = source
        self.data_key = data_key
        self.revision: str | None = None
        """Commit of the data set that was read, where it can be told; known once reading began."""

    def __iter__(self) -> Iterator[Record]:
        """Yield the records.

        Raises:
            UnavailableError: the hub cannot be reached, or no longer serves the data set in a readable form.
        """
        for part in self.source.list_parts():
            rows, asked = _load_split(part, self.data_key)
            self.revision = self.revision or _find_revision(part, rows, asked)
            try:
                for row, fields in enumerate(rows):
                    yield Record(f"{part}, row {row}", str(row), fields)
            except Exception as error:  # connections break in as many kinds while rows are streamed
                raise _unavailable(part, self.data_key, error) from error


def iter_hub_records(source: HubSplit, data_key: str) -> Iterator[Record]:
    """Yield the records of a hub split in their published order.

    Args:
        source: the split.
        data_key: what `--data` calls this input, `medqa` or `medqa.train`, for the message.

    Raises:
        UnavailableError: the hub cannot be reached, or no longer serves the data set in a readable form.
    """
    yield from HubRecords(source, data_key)


def _load_split(source: HubSplit, data_key: str) -> tuple[Any, str | None]:
    """Return the rows of a split and the revision that had to be named, or None for the newest."""
    # Not a stage of a pipeline: the whole import takes a second, so only who needs the hub pays it.
    import datasets

    from biomedllama_cli.models.hub import offline_where_unreachable

    attempts: list[dict[str, Any]] = [{}]
    if not source.streaming:
        # A data set that is a loading script (BigBio's) is readable only as the hub's own parquet copy.
        attempts.append({"revision": _PARQUET})
    reason: Exception | None = None
    for extra in attempts:
        try:
            with offline_where_unreachable():
                rows = datasets.load_dataset(
                    source.dataset,
                    source.configuration,
                    split=source.split,
                    streaming=source.streaming,
                    **extra,
                )
            return rows, extra.get("revision")
        except Exception as error:  # the libraries below raise a dozen unrelated kinds when a hub is missing
            reason = reason or error
            if "script" not in str(error):
                break
    assert reason is not None
    raise _unavailable(source, data_key, reason) from reason


def _find_revision(source: HubSplit, rows: Any, asked: str | None) -> str | None:
    """Return the commit that rows are of: `datasets` names the folder they are cached in after it.

    Streamed rows are not cached; then the hub is asked for the commit it has now.
    """
    for file in getattr(rows, "cache_files", None) or ():
        folder = Path(file["filename"]).parent.name
        if _COMMIT.fullmatch(folder):
            return folder
    if not source.streaming:
        return None
    from huggingface_hub import HfApi

    from biomedllama_cli.models.hub import ANSWER_SECONDS, is_hub_reachable

    if not is_hub_reachable():
        return None
    try:
        return HfApi().dataset_info(source.dataset, revision=asked, timeout=ANSWER_SECONDS).sha
    except Exception as error:  # the rows are there; a report without their commit is better than none
        logger.debug("revision of %s: %r", source, error)
        return None


def _unavailable(source: HubSplit, data_key: str, error: Exception) -> UnavailableError:
    reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
    hint = f"Give a local file in the original schema: --data {data_key}=FILE."
    if isinstance(error, ValueError) and reason.startswith(("Unknown split", "Bad split")):
        return UnavailableError(
            f"{source.dataset} on the hub has no split {source.split!r} any more ({reason})", hint
        )
    return UnavailableError(f"{source} cannot be read from the hub ({type(error).__name__}: {reason})", hint)
