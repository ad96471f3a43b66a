"""One article of PubMed Central: its JATS and its metadata JSON, which must not contradict each other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from biomedllama_cli.corpus.bucket.address import Article
from biomedllama_cli.corpus.bucket.metadata import BAD_METADATA, Facts, read_facts
from biomedllama_cli.corpus.document import Dropped, Metadata, Record
from biomedllama_cli.corpus.jats.article import parse_article
from biomedllama_cli.corpus.licences import CONFLICT, NO_LICENCE, Licence, combine_with_metadata
from biomedllama_cli.settings.prepare import ArticleSettings

MAX_METADATA_BYTES = 1 << 20
"""Longest metadata read (in bytes): they have 1 to 2 kB, and some hundreds of media addresses at most."""
_NAME = re.compile(r"PMC([1-9][0-9]{0,8})\.([1-9][0-9]{0,3})\.(?:n?xml(?:\.gz)?|json)")


@dataclass(frozen=True, slots=True)
class ArticleFile:
    """What is on disk of an article.

    Attributes:
        data: its JATS.
        name: the article and version that its file is named after, or None for a file of another name.
        metadata: its metadata JSON, or None.
    """

    data: bytes
    name: Article | None
    metadata: bytes | None


def parse_name(name: str) -> Article | None:
    """Return the article that a file of the bucket's layout is named after, or None.

    >>> parse_name("./PMC17.2/PMC17.2.xml").name
    'PMC17.2'
    >>> parse_name("PMC17.nxml") is parse_name("pone.0000217.xml") is None
    True
    """
    found = _NAME.fullmatch(name.rpartition("/")[2])
    return Article(int(found[1]), int(found[2]), bytes(16)) if found else None


def find_metadata(path: Path) -> bytes | None:
    """Return the metadata JSON of a file in the bucket's layout; nothing at all for one that is too long."""
    for candidate in _iter_metadata_paths(path):
        try:
            with candidate.open("rb") as stream:
                return stream.read(MAX_METADATA_BYTES + 1)
        except FileNotFoundError:
            continue
    return None


def find_metadata_time(path: Path) -> int:
    """Return when the metadata JSON of a file was changed (in nanoseconds), 0 where there is none."""
    for candidate in _iter_metadata_paths(path):
        try:
            return candidate.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return 0


def _iter_metadata_paths(path: Path) -> Iterator[Path]:
    name = parse_name(path.name)
    if name is not None:
        for folder in (path.parent, path.parent / "metadata", path.parent.parent / "metadata"):
            yield folder / f"{name.name}.json"


def build_document(article: ArticleFile, where: str, options: ArticleSettings) -> Record | Dropped:
    """Return the document of an article, with what its metadata add.

    Args:
        article: what is on disk.
        where: file, for messages.
        options: what becomes text.
    """
    if article.name is None or article.metadata is None:
        item = parse_article(article.data, where, options)
        if article.name is None or item.metadata is None:
            return item
        return replace(item, metadata=replace(item.metadata, version=article.name.version))
    long = len(article.metadata) > MAX_METADATA_BYTES
    facts = None if long else read_facts(article.name, article.metadata)
    if facts is None:
        problem = f"its metadata {article.name.name}.json cannot be relied on: not whole, of wrong types, or another's"
        return Dropped(BAD_METADATA, where, problem)
    if facts.xml_md5 is not None:
        found = hashlib.md5(article.data, usedforsecurity=False).digest()
        if found != facts.xml_md5:
            problem = f"its MD5 is {found.hex()}, but its metadata say {facts.xml_md5.hex()}"
            return Dropped("wrong_md5", where, problem, _without_licence(facts))
    item = parse_article(article.data, where, options)
    stated = item.metadata or Metadata()
    if _differ(stated.pmcid, facts.metadata.pmcid) or _differ(stated.pmid, facts.metadata.pmid):
        return Dropped("metadata_mismatch", where, "", _without_licence(facts), item.text[:1000])
    return replace(item, metadata=_merge(stated, facts))


def _differ(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one != other


def _without_licence(facts: Facts) -> Metadata:
    """Return metadata alone: what is said of an article's licence counts only together with the article's own word."""
    return replace(facts.metadata, licence=None)


def _merge(stated: Metadata, facts: Facts) -> Metadata:
    said = facts.metadata
    own = Licence(stated.licence) if stated.licence else NO_LICENCE
    licence = combine_with_metadata(CONFLICT if CONFLICT.problem in stated.flags else own, said.licence)
    flags = stated.flags | said.flags | ({CONFLICT.problem} if licence == CONFLICT else frozenset())
    return replace(
        stated,
        pmid=stated.pmid or said.pmid,
        version=said.version,
        pmcid=said.pmcid,
        doi=stated.doi or said.doi,
        title=stated.title or said.title,
        licence=licence.code,
        flags=flags,
    )
