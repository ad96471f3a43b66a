"""From an inventory of PubMed Central's bucket to bundles of articles on disk: decided first, fetched once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.bucket.address import Article, check_bucket_url
from biomedllama_cli.corpus.bucket.bundles import WANTED, iter_bundles, name_kind
from biomedllama_cli.corpus.bucket.client import DEFAULT_PATIENCE, Patience
from biomedllama_cli.corpus.bucket.download import Download, Meter, OnProgress
from biomedllama_cli.corpus.bucket.inventory import iter_articles
from biomedllama_cli.corpus.bucket.listing import (
    LATEST,
    check_inventory,
    fetch_inventory,
    find_frozen,
    mark_finished,
)
from biomedllama_cli.corpus.bucket.metadata import BAD_METADATA, Facts, find_refusal, read_facts
from biomedllama_cli.corpus.bucket.refused import Refusal, write_refusals
from biomedllama_cli.corpus.bucket.store import MetadataStore
from biomedllama_cli.corpus.locks import LockTakenError, hold_lock
from biomedllama_cli.errors import OutputError
from biomedllama_cli.settings.prepare import BucketSettings, SelectionSettings

logger = logging.getLogger(__name__)

_BLOCK = 1 << 16


@dataclass(frozen=True)
class FetchResult:
    """What was fetched.

    Attributes:
        date: day of the inventory.
        inventory_sha256: over the SHA-256 of the inventory's files.
        bundles: tar files of articles, in the order to read them.
        refusals: files of the articles that are in none, in the order to read them.
        considered: article versions considered: `kept` and all of `dropped`.
        kept: articles in the bundles.
        dropped: articles that are not, by reason.
        bad_rows: rows of the inventory that name no metadata of an article.
    """

    date: str
    inventory_sha256: str
    bundles: tuple[Path, ...]
    refusals: tuple[Path, ...]
    considered: int
    kept: int
    dropped: dict[str, int]
    bad_rows: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """All files as patterns for `BucketReader.list_inputs`."""
        return tuple(str(path) for path in (*self.bundles, *self.refusals))


def fetch_articles(
    settings: BucketSettings,
    selection: SelectionSettings,
    folder: Path,
    on_progress: OnProgress = lambda progress: None,
    patience: Patience = DEFAULT_PATIENCE,
) -> FetchResult:
    """Fetch the articles of one inventory that may be used, or go on fetching them.

    Everything is kept in `folder`: the frozen inventory, all metadata read, and the articles in bundles; what is there
    is not asked for again. The bundles depend on the inventory and `max_articles` alone. Memory: 90 bytes for each
    article version while an inventory is frozen, and 60 for each article considered from there on.

    Args:
        settings: the inventory and the bucket.
        selection: what is wanted.
        folder: where to keep it; made when missing.
        on_progress: told now and then how far it is.
        patience: when to give up.

    Raises:
        SettingsError: the settings name no day or no bucket.
        UnavailableError: the bucket, or some of its objects, cannot be fetched now.
        DataError: there is no such inventory, or it is damaged.
        OutputError: the folder is in use or cannot be written.
    """
    wanted = LATEST if settings.inventory is None else settings.inventory
    check_inventory(wanted)
    base = check_bucket_url(settings.bucket_url)
    try:
        with _lock(folder), MetadataStore(folder / "metadata.sqlite3", unsaved=settings.connections) as store:
            inventory = find_frozen(folder, wanted) or fetch_inventory(
                folder, wanted, base, patience, Meter(on_progress, "inventory", 0).set
            )
            articles = inventory.choose(settings.max_articles)
            logger.info("inventory of %s: %d articles to consider", inventory.date, len(articles))
            download = Download(store, base, settings.connections, patience, on_progress)
            download.fetch_metadata(articles)
            wanted_articles, kinds = _decide(store, articles, selection)
            scope = "all" if len(articles) == len(inventory.articles) else f"first-{len(articles)}"
            target = inventory.folder / scope
            download.fetch_bundles(target, kinds, wanted_articles, articles)
            bundles = tuple(bundle.path for bundle in iter_bundles(target, kinds, wanted_articles, articles))
            counts: Counter[str] = Counter()
            rows = _iter_refusals(store, articles, selection, counts)
            refusals = write_refusals(target / _name_refusals(selection), rows)
            mark_finished(inventory)
    except OSError as error:
        raise OutputError(f"download_dir: {folder} cannot be used: {error.strerror or error}.") from None
    superseded = int(articles["older"].sum())
    if superseded:
        counts["superseded_version"] = superseded
    considered = len(articles) + superseded
    return FetchResult(
        date=inventory.date,
        inventory_sha256=inventory.sha256,
        bundles=bundles,
        refusals=refusals,
        considered=considered,
        kept=considered - counts.total(),
        dropped=dict(sorted(counts.items())),
        bad_rows=inventory.bad_rows,
    )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold_lock(folder / "lock"):
            yield
    except LockTakenError:
        raise OutputError(
            f"download_dir: another process is fetching into {folder} right now.",
            "Wait for it, or name another folder with --download-dir.",
        ) from None


def _decide(
    store: MetadataStore, articles: npt.NDArray[np.void], selection: SelectionSettings
) -> tuple[npt.NDArray[np.void], list[str]]:
    """Return the articles to fetch as WANTED, and the names of their kinds."""
    kinds: dict[str, int] = {}
    blocks: list[npt.NDArray[np.void]] = []
    rows: list[tuple[int, int, bytes]] = []
    for place, article in enumerate(iter_articles(articles)):
        facts, reason = _judge(store, article, selection)
        if reason is None:
            assert facts is not None
            assert facts.xml_md5 is not None
            kind = kinds.setdefault(name_kind(facts), len(kinds))
            rows.append((place, kind, facts.xml_md5))
        if len(rows) == _BLOCK:
            blocks.append(np.array(rows, WANTED))
            rows.clear()
    return np.concatenate([*blocks, np.array(rows, WANTED)]), list(kinds)


def _iter_refusals(
    store: MetadataStore, articles: npt.NDArray[np.void], selection: SelectionSettings, counts: Counter[str]
) -> Iterator[Refusal]:
    """Yield the articles that are in no bundle, and count them by reason."""
    for article in iter_articles(articles):
        facts, reason = _judge(store, article, selection)
        if reason is None:
            assert facts is not None
            assert facts.xml_md5 is not None
            reason = store.find_xml_loss(article, facts.xml_md5)
        if reason is not None:
            counts[reason] += 1
            yield Refusal(article, reason, facts)


def _judge(
    store: MetadataStore, article: Article, selection: SelectionSettings
) -> tuple[Facts | None, str | None]:
    """Return what is known of an article, and why it is not to be fetched, if so."""
    body, loss = store.find(article)
    if body is None:
        return None, loss
    facts = read_facts(article, body)
    return facts, find_refusal(facts, selection) if facts else BAD_METADATA


def _name_refusals(selection: SelectionSettings) -> str:
    """Return the folder for what this selection leaves out."""
    choices = (selection.licences, selection.no_derivatives, selection.retracted, selection.historical_ocr)
    return "-".join(["refused", *choices])
