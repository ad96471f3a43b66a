"""Articles as they lie on disk: tar files of about a thousand, each article's metadata followed by its XML."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.bucket.address import Article
from biomedllama_cli.corpus.bucket.inventory import iter_articles
from biomedllama_cli.corpus.bucket.metadata import Facts
from biomedllama_cli.corpus.durable import flush_path

ARTICLES_PER_BUNDLE = 1000
WANTED = np.dtype([("place", "<u4"), ("kind", "u1"), ("md5", "V16")])
"""An article to fetch: its place in the array of articles, the kind of bundle, the MD5 of its XML: 21 bytes."""


def name_kind(facts: Facts) -> str:
    """Return the folder of the bundles an article belongs to: by licence, and apart what is seldom wanted.

    So a corpus under another licence gate uses the bundles that are there, and a bundle depends on the inventory alone.
    """
    licence = (facts.metadata.licence or "no-licence").lower().replace(" ", "-")
    return "-".join(
        [licence, *(flag for flag in ("retracted", "historical_ocr") if flag in facts.metadata.flags)]
    )


@dataclass(frozen=True)
class Member:
    """An article of a bundle and the MD5 of its XML, 16 bytes."""

    article: Article
    xml_md5: bytes


@dataclass(frozen=True)
class Bundle:
    """A tar file to be.

    Attributes:
        path: where it goes.
        wanted: its articles, by PMCID; WANTED.
        articles: what the places in `wanted` mean; ARTICLE.
    """

    path: Path
    wanted: npt.NDArray[np.void]
    articles: npt.NDArray[np.void]

    def list_members(self) -> list[Member]:
        """Return its articles, by PMCID."""
        articles = iter_articles(self.articles[self.wanted["place"]])
        pairs = zip(articles, self.wanted["md5"].tolist(), strict=True)
        return [Member(article, md5) for article, md5 in pairs]

    @property
    def staging(self) -> Path:
        """Folder of the XML fetched so far."""
        return self.path.with_suffix(".partial")

    def is_finished(self) -> bool:
        """Tell whether the tar file is there; what a process that was killed then left beside it is removed."""
        finished = self.path.exists()
        if finished and self.staging.exists():
            shutil.rmtree(self.staging)
        return finished

    def find_staged(self) -> set[Article]:
        """Return the articles whose XML an earlier run fetched and that is whole; anything else there is removed."""
        if not self.staging.is_dir():
            return set()
        expected = {f"{member.article.name}.xml": member for member in self.list_members()}
        found = set()
        for path in self.staging.iterdir():
            member = expected.get(path.name)
            if member is not None and _hash(path) == member.xml_md5:
                found.add(member.article)
            else:
                path.unlink()
        return found

    def stage(self, member: Member) -> Path:
        """Return where the XML of an article waits for the rest of the bundle."""
        self.staging.mkdir(parents=True, exist_ok=True)
        return self.staging / f"{member.article.name}.xml"

    def assemble(self, bodies: list[tuple[Article, bytes]]) -> None:
        """Write the tar file from staged XML, whole or not at all, and remove what was staged.

        Args:
            bodies: the articles that are left of the members, in order, each with its metadata JSON.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.new")
        with new.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for article, body in bodies:
                    _add(archive, f"{article.name}/{article.name}.json", io.BytesIO(body), len(body))
                    staged = self.staging / f"{article.name}.xml"
                    with staged.open("rb") as xml:
                        _add(archive, article.xml_key, xml, staged.stat().st_size)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        flush_path(self.path.parent)
        shutil.rmtree(self.staging, ignore_errors=True)


def iter_bundles(
    folder: Path, kinds: list[str], wanted: npt.NDArray[np.void], articles: npt.NDArray[np.void]
) -> Iterator[Bundle]:
    """Yield the bundles of the wanted articles, kind by kind in alphabetical order.

    Args:
        folder: holds a folder for each kind.
        kinds: names of the kinds; `wanted` holds places in this list.
        wanted: WANTED, by place.
        articles: ARTICLE, by PMCID.
    """
    for name, number in sorted((name, number) for number, name in enumerate(kinds)):
        places = np.flatnonzero(wanted["kind"] == number)
        for count, start in enumerate(range(0, len(places), ARTICLES_PER_BUNDLE)):
            rows = wanted[places[start : start + ARTICLES_PER_BUNDLE]]
            yield Bundle(folder / name / f"articles-{count:05d}.tar", rows, articles)


def _add(archive: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> None:
    entry = tarfile.TarInfo(name)  # no time, no owner: equal content makes equal bytes
    entry.size = size
    archive.addfile(entry, content)


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").digest()
