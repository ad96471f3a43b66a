"""Fetching articles from PubMed Central's bucket before they are read."""

from __future__ import annotations

from pathlib import Path

from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.prepare import PrepareSettings


def fetch_bundles(settings: PrepareSettings) -> tuple[Path, ...]:
    """Fetch what the inventory and the settings choose, and return the archives; none without an inventory.

    Raises:
        UnavailableError: the bucket cannot be reached, or some articles could not be fetched.
        DataError: what it answers is not what its layout promises.
    """
    if settings.bucket.inventory is None:
        return ()
    from biomedllama_cli.corpus.bucket import fetch_articles

    folder = settings.bucket.download_dir or settings.workspace / "downloads" / "pmc"
    with Progress("fetching", None, "articles") as progress:
        result = fetch_articles(settings.bucket, settings.selection, folder, progress.advance)
    return tuple(result.bundles)
