"""The two long parts of a fetch: the metadata of all articles, then the XML of those wanted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.bucket.address import Article
from biomedllama_cli.corpus.bucket.bundles import Bundle, Member, iter_bundles
from biomedllama_cli.corpus.bucket.client import (
    BucketClient,
    ChangedError,
    FailedError,
    GoneError,
    Patience,
    run_with_client,
    work_through,
)
from biomedllama_cli.corpus.bucket.inventory import iter_articles
from biomedllama_cli.corpus.bucket.listing import OFFLINE_HINT
from biomedllama_cli.corpus.bucket.store import CHANGED, REMOVED, MetadataStore
from biomedllama_cli.errors import UnavailableError

logger = logging.getLogger(__name__)

_MAX_METADATA_BYTES = 1 << 20
_MAX_XML_BYTES = 256 << 20
_MOST_FAILURES = 100
_SECONDS_BETWEEN_REPORTS = 0.25


@dataclass(frozen=True)
class FetchProgress:
    """How far a fetch is.

    Attributes:
        stage: `inventory` (counted in bytes), `metadata` or `articles` (counted in objects).
        done: how much is there, from earlier runs too.
        total: how much there is.
    """

    stage: str
    done: int
    total: int


OnProgress = Callable[[FetchProgress], None]


@dataclass
class Meter:
    """Tells how far a stage is, a few times a second."""

    on_progress: OnProgress
    stage: str
    total: int
    done: int = 0
    _told: float = 0.0

    def set(self, done: int, total: int) -> None:
        """Tell how far it is, and of how much."""
        self.done, self.total = done, total
        now = time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN_REPORTS or done >= total:
            self._told = now
            self.on_progress(FetchProgress(self.stage, done, total))

    def count(self, more: int = 1) -> None:
        """Count more of it as done."""
        self.set(self.done + more, self.total)


@dataclass
class _Failures:
    """Objects that could not be fetched: a corpus has all articles of its inventory, or is not made."""

    base: str
    names: list[str] = field(default_factory=list)
    problem: str = ""

    def add(self, name: str, error: FailedError) -> None:
        """Remember one; so many of them mean that the bucket is gone."""
        logger.debug("%s: %s", name, error)
        self.names.append(name)
        self.problem = str(error)
        if len(self.names) >= _MOST_FAILURES:
            self.check()

    def check(self) -> None:
        """Raise UnavailableError when there was one."""
        if self.names:
            shown = ", ".join(sorted(self.names)[:3]) + (", …" if len(self.names) > 3 else "")
            count = "1 object" if len(self.names) == 1 else f"{len(self.names)} objects"
            raise UnavailableError(
                f"{count} of {self.base} could not be fetched ({shown}; the last problem: {self.problem}).",
                f"What was fetched is kept: run the same command again to go on. {OFFLINE_HINT}",
            )


@dataclass
class _OpenBundle:
    """A bundle that is being fetched.

    Attributes:
        bundle: which one.
        missing: articles that are not there yet, and one more until all of them are taken up.
        failed: whether one of them could not be fetched.
    """

    bundle: Bundle
    missing: int = 1
    failed: bool = False


@dataclass(frozen=True)
class Download:
    """Fetches what is missing.

    Attributes:
        store: the metadata that is there.
        base: address of the bucket.
        connections: requests at the same time.
        patience: when to give up.
        on_progress: told how far it is.
    """

    store: MetadataStore
    base: str
    connections: int
    patience: Patience
    on_progress: OnProgress

    def fetch_metadata(self, articles: npt.NDArray[np.void]) -> None:
        """Fetch the metadata of all articles (ARTICLE) that are not in the store.

        Raises:
            UnavailableError: some could not be fetched.
        """
        known = (self.store.has(article) for article in iter_articles(articles))
        missing = articles[~np.fromiter(known, np.bool_, len(articles))]
        meter = Meter(self.on_progress, "metadata", len(articles))
        meter.count(len(articles) - len(missing))
        if not len(missing):
            return
        failures = _Failures(self.base)

        async def fetch(client: BucketClient) -> None:
            async def fetch_one(article: Article) -> None:
                try:
                    body = await client.read(article.metadata_key, _MAX_METADATA_BYTES, article.md5)
                    self.store.add(article, body)
                except GoneError:
                    self.store.add(article, None, REMOVED)
                except ChangedError:
                    self.store.add(article, None, CHANGED)
                except FailedError as error:
                    failures.add(article.metadata_key, error)
                    return
                meter.count()

            await work_through(iter_articles(missing), fetch_one, self.connections)

        run_with_client(self.base, self.connections, self.patience, fetch)
        self.store.save()
        failures.check()

    def fetch_bundles(
        self,
        folder: Path,
        kinds: list[str],
        wanted: npt.NDArray[np.void],
        articles: npt.NDArray[np.void],
    ) -> None:
        """Fetch the XML of the wanted articles (WANTED) into bundles in `folder`; those that are there stay.

        Raises:
            UnavailableError: some could not be fetched; bundles without them are whole.
        """
        meter = Meter(self.on_progress, "articles", len(wanted))
        bundles = list(iter_bundles(folder, kinds, wanted, articles))
        unfinished = [bundle for bundle in bundles if not bundle.is_finished()]
        meter.count(len(wanted) - sum(len(bundle.wanted) for bundle in unfinished))
        if not unfinished:
            return
        failures = _Failures(self.base)

        async def fetch(client: BucketClient) -> None:
            async def fetch_one(job: tuple[_OpenBundle, Member | None]) -> None:
                opened, member = job
                if member is not None:
                    await self._fetch_xml(client, opened, member, failures)
                    meter.count()
                opened.missing -= 1
                if not opened.missing and not opened.failed:
                    await self._assemble(opened.bundle)

            await work_through(self._iter_jobs(unfinished, meter), fetch_one, self.connections)

        run_with_client(self.base, self.connections, self.patience, fetch)
        failures.check()

    def _iter_jobs(self, bundles: list[Bundle], meter: Meter) -> Iterator[tuple[_OpenBundle, Member | None]]:
        """Yield the articles to fetch, each with its bundle, and None when a bundle's last one was yielded."""
        for bundle in bundles:
            opened = _OpenBundle(bundle)
            staged = bundle.find_staged()
            for member in bundle.list_members():
                lost = self.store.find_xml_loss(member.article, member.xml_md5)
                if member.article in staged or lost:
                    meter.count()
                    continue
                opened.missing += 1
                yield opened, member
            yield opened, None

    async def _fetch_xml(
        self, client: BucketClient, opened: _OpenBundle, member: Member, failures: _Failures
    ) -> None:
        key = member.article.xml_key
        try:
            await client.save(key, opened.bundle.stage(member), _MAX_XML_BYTES, member.xml_md5)
        except GoneError:
            self.store.add_xml_loss(member.article, member.xml_md5, REMOVED)
        except ChangedError:
            self.store.add_xml_loss(member.article, member.xml_md5, CHANGED)
        except FailedError as error:
            opened.failed = True
            failures.add(key, error)

    async def _assemble(self, bundle: Bundle) -> None:
        """Make a bundle of what was fetched for it, beside the running requests."""
        bodies = []
        for member in bundle.list_members():
            body, _ = self.store.find(member.article)
            if body is not None and not self.store.find_xml_loss(member.article, member.xml_md5):
                bodies.append((member.article, body))
        self.store.save()  # what is lost is known before the bundle is there without it
        await asyncio.to_thread(bundle.assemble, bodies)
