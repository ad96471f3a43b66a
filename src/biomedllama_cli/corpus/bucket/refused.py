"""The articles that were not fetched, and why, as input files: they still license, retract and count."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import orjson

from biomedllama_cli.corpus.bucket.address import Article
from biomedllama_cli.corpus.bucket.metadata import Facts
from biomedllama_cli.corpus.document import FLAGS, Dropped, Item, Metadata
from biomedllama_cli.corpus.licences import CODES
from biomedllama_cli.corpus.sources.files import InputFile, find_inputs
from biomedllama_cli.corpus.sources.streams import iter_blocks, iter_lines

SUFFIX = ".refused.jsonl"
_ROWS_PER_FILE = 100_000
_MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Refusal:
    """An article that is not in the bundles, why, and what is known of it."""

    article: Article
    reason: str
    facts: Facts | None

    def encode(self) -> bytes:
        """Return it as one line of JSON."""
        metadata = self.facts.metadata if self.facts else Metadata()
        row = {
            "reason": self.reason,
            "pmcid": self.article.pmcid,
            "version": self.article.version,
            "pmid": metadata.pmid,
            "doi": metadata.doi,
            "title": metadata.title,
            "licence": metadata.licence,
            "flags": sorted(metadata.flags),
        }
        return orjson.dumps(row) + b"\n"


def write_refusals(folder: Path, refusals: Iterable[Refusal]) -> tuple[Path, ...]:
    """Write refusals into files of 100,000; a file that is there with the same content stays untouched."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    rows: list[bytes] = []
    for refusal in refusals:
        rows.append(refusal.encode())
        if len(rows) == _ROWS_PER_FILE:
            paths.append(_write_rows(folder, len(paths), rows))
            rows.clear()
    if rows:
        paths.append(_write_rows(folder, len(paths), rows))
    for stale in set(folder.glob(f"*{SUFFIX}")) - set(paths):
        stale.unlink()
    return tuple(paths)


def _write_rows(folder: Path, number: int, rows: list[bytes]) -> Path:
    path = folder / f"articles-{number:05d}{SUFFIX}"
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(b"".join(rows))
    if path.exists() and filecmp.cmp(path, new, shallow=False):
        new.unlink()
    else:
        new.replace(path)
    return path


def iter_refusals(
    path: Path, report_position: Callable[[int], None] = lambda position: None
) -> Iterator[Dropped]:
    """Yield the refusals of a file as dropped documents, each with its metadata."""
    for number, line in iter_lines(iter_blocks(path, report_position), _MAX_LINE_BYTES):
        where = f"{path}, line {number}"
        try:
            row = orjson.loads(line or b"")
            metadata = Metadata(
                pmid=row["pmid"],
                version=row["version"],
                pmcid=row["pmcid"],
                doi=row["doi"],
                title=row["title"],
                licence=row["licence"] if row["licence"] in CODES else None,
                flags=frozenset(row["flags"]) & frozenset(FLAGS),
            )
            reason = str(row["reason"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            yield Dropped("unreadable_refusal", where, "it is no refusal")
            continue
        yield Dropped(reason, where, metadata=metadata)


class ArticleReader(Protocol):
    """What reads the bundles."""

    suffixes: ClassVar[tuple[str, ...]]

    def list_inputs(self, patterns: tuple[str, ...]) -> list[InputFile]:
        """Return the inputs that files, folders and globs name."""

    def iter_documents(self, file: InputFile, report_position: Callable[[int], None]) -> Iterator[Item]:
        """Yield what one input holds."""

    def identify(self) -> dict[str, Any]:
        """Return the settings that change what is read."""


@dataclass(frozen=True)
class BucketReader:
    """Reads what was fetched from the bucket: bundles through the reader of articles, refusals as dropped documents.

    Attributes:
        articles: reader of the bundles.
    """

    articles: ArticleReader
    suffixes: ClassVar[tuple[str, ...]] = (".tar", SUFFIX)

    def list_inputs(self, patterns: tuple[str, ...]) -> list[InputFile]:
        """Return the files of a fetch in the order given, which is that of `FetchResult.inputs`."""
        return find_inputs(patterns, self.suffixes)

    def iter_documents(self, file: InputFile, report_position: Callable[[int], None]) -> Iterator[Item]:
        """Yield the documents of a bundle, or the refusals of a file of them."""
        if file.path.name.endswith(SUFFIX):
            yield from iter_refusals(file.path, report_position)
        else:
            yield from self.articles.iter_documents(file, report_position)

    def identify(self) -> dict[str, Any]:
        """Return the settings that change what is read."""
        return self.articles.identify()
