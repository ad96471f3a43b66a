"""Fetching articles from PubMed Central's bucket before they are read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.prepare import PrepareSettings

if TYPE_CHECKING:
    from biomedllama_cli.corpus.bucket import FetchProgress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """What was fetched before the tasks begin.

    Attributes:
        files: archives of articles and lists of those left out, in the order to read them.
        inventory: what the manifest says of it, or None when nothing was asked of the bucket.
    """

    files: tuple[Path, ...] = ()
    inventory: dict[str, Any] | None = None


def fetch_inputs(settings: PrepareSettings) -> Fetched:
    """Fetch what the inventory and the settings choose; nothing without an inventory.

    Raises:
        UnavailableError: the bucket cannot be reached, or some articles could not be fetched.
        DataError: what it answers is not what its layout promises.
    """
    if settings.bucket.inventory is None:
        return Fetched()
    from biomedllama_cli.corpus.bucket import fetch_articles

    folder = settings.bucket.download_dir or settings.workspace / "downloads" / "pmc"
    with _StagedProgress() as progress:
        result = fetch_articles(settings.bucket, settings.selection, folder, progress.show)
    logger.info("inventory of %s: --inventory %s names it again", result.date, result.date)
    return Fetched(
        tuple(map(Path, result.inputs)),
        {
            "date": result.date,
            "sha256": result.inventory_sha256,
            "considered": result.considered,
            "fetched": result.kept,
            "dropped": result.dropped,
            "bad_rows": result.bad_rows,
        },
    )


def settle_inventory(settings: PrepareSettings, fetched: Fetched) -> PrepareSettings:
    """Return the settings with the day of the inventory for `latest`, which means another one tomorrow.

    Slurm's last job asks for the inventory again, days later perhaps, and the manifest tells what was read.
    """
    if fetched.inventory is None:
        return settings
    bucket = settings.bucket.model_copy(update={"inventory": fetched.inventory["date"]})
    return settings.model_copy(update={"bucket": bucket})


def check_inventory(settings: PrepareSettings) -> None:
    """Check before any work that what an inventory names is wanted.

    Raises:
        SettingsError: PubMed Central is not among the sources.
    """
    if settings.bucket.inventory is not None and "pmc" not in settings.source.source:
        raise SettingsError(
            "bucket.inventory names articles of PubMed Central, and pmc is not among the sources.",
            "Add --source pmc.",
        )


class _StagedProgress:
    """One progress line after the other: the inventory, the metadata, the articles."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._done = 0
        self._bar: Progress | None = None

    def __enter__(self) -> _StagedProgress:
        return self

    def show(self, progress: FetchProgress) -> None:
        """Show how far the fetch is."""
        if progress.stage != self._stage:
            self._close()
            unit = "bytes" if progress.stage == "inventory" else "objects"
            self._bar = Progress(f"fetching {progress.stage}", progress.total or None, unit).__enter__()
            self._bar.start_at(progress.done)
            self._stage, self._done = progress.stage, progress.done
        assert self._bar is not None
        self._bar.advance(progress.done - self._done)
        self._done = progress.done

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def __exit__(self, *_: object) -> None:
        self._close()
