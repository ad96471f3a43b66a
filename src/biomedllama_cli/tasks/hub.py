"""Splits of published data sets, read through `datasets` when a task needs them and no file is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from biomedllama_cli.errors import UnavailableError
from biomedllama_cli.tasks.records import Record


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set on the hub."""

    dataset: str
    split: str
    configuration: str | None = None
    streaming: bool = False

    def __str__(self) -> str:
        """Return `dataset (configuration), split`."""
        name = f"{self.dataset} ({self.configuration})" if self.configuration else self.dataset
        return f"{name}, {self.split} split"


def iter_hub_records(source: HubSplit, data_key: str) -> Iterator[Record]:
    """Yield the records of a hub split in their published order.

    Args:
        source: the split.
        data_key: what `--data` calls this input, `medqa` or `medqa.train`, for the message.

    Raises:
        UnavailableError: the hub cannot be reached, or no longer serves the data set in a readable form.
    """
    # Not a stage of a pipeline: the whole import takes a second, so only who needs the hub pays it.
    rows = _load_split(source, data_key)
    try:
        for row, fields in enumerate(rows):
            yield Record(f"{source}, row {row}", str(row), fields)
    except Exception as error:  # connections break in as many kinds while rows are streamed
        raise _unavailable(source, data_key, error) from error


def _load_split(source: HubSplit, data_key: str) -> Any:
    import datasets

    from biomedllama_cli.models.hub import offline_where_unreachable

    attempts: list[dict[str, Any]] = [{}]
    if not source.streaming:
        # A data set that is a loading script (BigBio's) is readable only as the hub's own parquet copy.
        attempts.append({"revision": "refs/convert/parquet"})
    reason: Exception | None = None
    for extra in attempts:
        try:
            with offline_where_unreachable():
                return datasets.load_dataset(
                    source.dataset,
                    source.configuration,
                    split=source.split,
                    streaming=source.streaming,
                    **extra,
                )
        except Exception as error:  # the libraries below raise a dozen unrelated kinds when a hub is missing
            reason = reason or error
            if "script" not in str(error):
                break
    assert reason is not None
    raise _unavailable(source, data_key, reason) from reason


def _unavailable(source: HubSplit, data_key: str, error: Exception) -> UnavailableError:
    reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
    return UnavailableError(
        f"{source} cannot be read from the hub ({type(error).__name__}: {reason})",
        f"Give a local file in the original schema: --data {data_key}=FILE.",
    )
