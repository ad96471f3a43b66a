"""The articles' metadata fetched so far, in one database file: whatever kills the run, nothing is asked for twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any

from biomedllama_cli.corpus.bucket.address import Article
from biomedllama_cli.errors import OutputError

REMOVED = "removed_from_bucket"
CHANGED = "changed_since_inventory"

# A row per version and content, so that inventories of several days share what did not change. `loss` says why there
# is no body; `xml_losses` the same of the XML, whose MD5 the body states.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS metadata (pmcid INTEGER, version INTEGER, md5 BLOB, body BLOB, loss TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS metadata_of ON metadata (pmcid, version, md5);
CREATE TABLE IF NOT EXISTS xml_losses (pmcid INTEGER, version INTEGER, md5 BLOB, loss TEXT,
    PRIMARY KEY (pmcid, version, md5)) WITHOUT ROWID;
"""


class MetadataStore:
    """The metadata JSON of articles, and what the bucket no longer has.

    Args:
        path: the database file; made when missing.
        unsaved: rows held back before they are saved together (in rows): what a killed process loses at most.

    Raises:
        OutputError: the file is no such database or cannot be written.
    """

    def __init__(self, path: Path, unsaved: int = 1) -> None:
        self.path = path
        self._unsaved = unsaved
        self._held = 0
        try:
            self._connection = sqlite3.connect(path, isolation_level="IMMEDIATE")
            # The folder's lock keeps others out; with this mode the log needs no shared memory, which network file
            # systems lack. A killed process loses what was not committed, a power cut at most the last commits.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise self._explain(error) from None

    def __enter__(self) -> MetadataStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save()
        self._connection.close()

    def has(self, article: Article) -> bool:
        """Tell whether the metadata of an article was fetched, or found to be gone."""
        sql = "SELECT 1 FROM metadata WHERE pmcid = ? AND version = ? AND md5 = ?"
        return self._find(sql, article, article.md5) is not None

    def find(self, article: Article) -> tuple[bytes | None, str | None]:
        """Return an article's metadata JSON, or None and why there is none."""
        sql = "SELECT body, loss FROM metadata WHERE pmcid = ? AND version = ? AND md5 = ?"
        row = self._find(sql, article, article.md5)
        assert row is not None, f"the metadata of {article.name} was never fetched"
        return row[0], row[1]

    def add(self, article: Article, body: bytes | None, loss: str | None = None) -> None:
        """Keep an article's metadata JSON, or why there is none."""
        self._write(
            "INSERT OR IGNORE INTO metadata VALUES (?, ?, ?, ?, ?)",
            (article.pmcid, article.version, article.md5, body, loss),
        )

    def find_xml_loss(self, article: Article, md5: bytes) -> str | None:
        """Return why the XML of this MD5 is not to be had, or None."""
        sql = "SELECT loss FROM xml_losses WHERE pmcid = ? AND version = ? AND md5 = ?"
        row = self._find(sql, article, md5)
        return row[0] if row else None

    def add_xml_loss(self, article: Article, md5: bytes, loss: str) -> None:
        """Keep why the XML of this MD5 is not to be had."""
        self._write(
            "INSERT OR IGNORE INTO xml_losses VALUES (?, ?, ?, ?)",
            (article.pmcid, article.version, md5, loss),
        )

    def save(self) -> None:
        """Save the rows held back."""
        try:
            self._connection.commit()
        except sqlite3.Error as error:
            raise self._explain(error) from None
        self._held = 0

    def _find(self, sql: str, article: Article, md5: bytes) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._connection.execute(
                sql, (article.pmcid, article.version, md5)
            ).fetchone()
        except sqlite3.Error as error:
            raise self._explain(error) from None
        return row

    def _write(self, sql: str, row: tuple[object, ...]) -> None:
        try:
            self._connection.execute(sql, row)
        except sqlite3.Error as error:
            raise self._explain(error) from None
        self._held += 1
        if self._held >= self._unsaved:
            self.save()

    def _explain(self, error: sqlite3.Error) -> OutputError:
        return OutputError(
            f"download_dir: {self.path} cannot be used: {error}.",
            "Make room or mend the permissions; if it is damaged, delete it: its content is fetched again.",
        )
