"""One day's inventory of the bucket, frozen on disk: the list of articles a corpus is made from."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.bucket.address import BUCKET, Article, parse_md5, parse_metadata_key
from biomedllama_cli.corpus.durable import flush_path
from biomedllama_cli.corpus.sources.streams import BrokenStreamError, iter_blocks, iter_lines
from biomedllama_cli.errors import DataError

ARTICLE = np.dtype([("pmcid", "<u4"), ("version", "<u2"), ("older", "<u2"), ("md5", "V16")])
"""An article's newest version, the number of older ones, and the MD5 of its metadata: 24 bytes."""
INVENTORY_FILE = "inventory.json"
_ARTICLES_FILE = "articles.npy"
_MAX_ROWS = 100_000_000  # the bucket has 8 million
_MAX_ROW_BYTES = 4096
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Shard:
    """One file of an inventory: its key in the bucket, size in bytes, and digests in hexadecimal."""

    key: str
    size: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class Inventory:
    """A frozen inventory.

    Attributes:
        date: its day, YYYY-MM-DD.
        folder: where its files are.
        sha256: over the SHA-256 of its shards, in order.
        shards: its files.
        versions: article versions listed.
        bad_rows: rows that could not be understood.
        articles: the newest version of each article, by PMCID; ARTICLE, shape [articles].
    """

    date: str
    folder: Path
    sha256: str
    shards: tuple[Shard, ...]
    versions: int
    bad_rows: int
    articles: npt.NDArray[np.void]

    def choose(self, count: int | None) -> npt.NDArray[np.void]:
        """Return `count` articles chosen evenly by the hash of their PMCID, or all; a smaller choice is part of a
        larger one.
        """
        if count is None or count >= len(self.articles):
            return self.articles
        hashes = mix(self.articles["pmcid"].astype(np.uint64))
        chosen = np.argpartition(hashes, count - 1)[:count]
        return np.asarray(self.articles[np.sort(chosen)])


def mix(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return numbers spread evenly over 64 bits, no two alike (the finaliser of SplitMix64, Steele et al. 2014).

    >>> [hex(n) for n in mix(np.array([0, 1], dtype=np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    with np.errstate(over="ignore"):
        x = numbers + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def iter_articles(articles: npt.NDArray[np.void]) -> Iterator[Article]:
    """Yield the rows of an array of ARTICLE."""
    for start in range(0, len(articles), _BLOCK):
        block = articles[start : start + _BLOCK]
        columns = (block["pmcid"].tolist(), block["version"].tolist(), block["md5"].tolist())
        for pmcid, version, md5 in zip(*columns, strict=True):
            yield Article(pmcid, version, md5)


def build_shard_path(folder: Path, number: int) -> Path:
    """Return where a frozen inventory keeps a shard."""
    return folder / f"shard-{number:05d}.csv.gz"


def freeze_inventory(folder: Path, date: str, schema: tuple[str, ...], keys: list[str]) -> Inventory:
    """Read the shards fetched into `folder` and write down what was found; from here on the inventory is frozen.

    Args:
        folder: holds the shards under `build_shard_path`.
        date: its day.
        schema: names of the columns.
        keys: the shards' keys in the bucket, in order.

    Raises:
        DataError: a shard cannot be read.
    """
    shards, parts, bad_rows = [], [], 0
    for number, key in enumerate(keys):
        path = build_shard_path(folder, number)
        content = [_digest(path, kind) for kind in ("md5", "sha256")]
        shards.append(Shard(key, path.stat().st_size, *content))
        rows, bad = _read_shard(path, schema, key)
        parts.append(rows)
        bad_rows += bad
    versions = np.concatenate(parts)
    parts.clear()
    if not len(versions):
        raise DataError(
            f"The inventory of {date} lists no article.",
            "Name another day with --inventory, or fetch from --bucket-url.",
        )
    sha256 = hashlib.sha256("\n".join(shard.sha256 for shard in shards).encode()).hexdigest()
    inventory = Inventory(
        date, folder, sha256, tuple(shards), len(versions), bad_rows, _keep_newest(versions)
    )
    _write(folder / _ARTICLES_FILE, inventory.articles)
    facts = {
        "format": 1,
        "date": date,
        "bucket": BUCKET,
        "sha256": sha256,
        "schema": schema,
        "shards": [asdict(shard) for shard in shards],
        "versions": inventory.versions,
        "bad_rows": bad_rows,
        "articles": len(inventory.articles),
    }
    _write(folder / INVENTORY_FILE, facts)
    return inventory


def load_inventory(folder: Path) -> Inventory | None:
    """Return the inventory frozen in `folder`, or None when there is none.

    Raises:
        DataError: its files are damaged.
    """
    path = folder / INVENTORY_FILE
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _explain_damage(path, error) from None
    try:
        shards = tuple(Shard(**shard) for shard in facts["shards"])
        articles = np.load(folder / _ARTICLES_FILE, mmap_mode="r", allow_pickle=False)
        inventory = Inventory(
            facts["date"], folder, facts["sha256"], shards, facts["versions"], facts["bad_rows"], articles
        )
        whole = articles.dtype == ARTICLE and articles.shape == (facts["articles"],)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _explain_damage(path, error) from None
    if not whole:
        raise _explain_damage(folder / _ARTICLES_FILE, ValueError("it has another length"))
    return inventory


def _explain_damage(path: Path, error: Exception) -> DataError:
    return DataError(
        f"The frozen inventory {path} cannot be read: {error}.", f"Delete {path.parent}: it is fetched again."
    )


def _read_shard(path: Path, schema: tuple[str, ...], key: str) -> tuple[npt.NDArray[np.void], int]:
    """Return the article versions of one shard as ARTICLE with `older` 0, and the number of rows of another kind."""
    blocks: list[npt.NDArray[np.void]] = []
    bad = 0
    found: list[tuple[int, int, int, bytes]] = []
    columns = schema.index("Bucket"), schema.index("Key"), schema.index("ETag")
    try:
        lines = (line for _, line in iter_lines(iter_blocks(path, lambda position: None), _MAX_ROW_BYTES))
        for number, line in enumerate(lines, start=1):
            if number > _MAX_ROWS:
                raise DataError(f"The inventory's shard {key} has more than {_MAX_ROWS} rows.")
            row = _parse_row(line, columns)
            if row is None:
                bad += 1
                continue
            found.append(row)
            if len(found) == _BLOCK:
                blocks.append(np.array(found, ARTICLE))
                found.clear()
    except BrokenStreamError as error:
        raise DataError(f"The inventory's shard {key} cannot be read: {error.problem}.") from None
    return np.concatenate([*blocks, np.array(found, ARTICLE)]), bad


def _parse_row(line: bytes | None, columns: tuple[int, int, int]) -> tuple[int, int, int, bytes] | None:
    """Return one row as ARTICLE, or None when it is not the metadata of an article with an MD5."""
    try:
        cells = next(csv.reader([line.decode("ascii")])) if line else []
        bucket, key, etag = (cells[column] for column in columns)
    except (UnicodeDecodeError, csv.Error, IndexError, StopIteration):
        return None
    name, md5 = parse_metadata_key(key), parse_md5(etag)
    return (*name, 0, md5) if bucket == BUCKET and name and md5 else None


def _keep_newest(versions: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return the newest version of each article, by PMCID; of a version listed twice the last row."""
    numbers = (versions["pmcid"].astype(np.uint64) << np.uint64(16)) | versions["version"]
    order = np.argsort(numbers, kind="stable")
    pmcids = numbers[order] >> np.uint64(16)
    del numbers
    last = np.flatnonzero(np.append(pmcids[1:] != pmcids[:-1], True))
    del pmcids
    newest = versions[order[last]]
    older = np.diff(last, prepend=-1) - 1
    newest["older"] = np.minimum(older, np.iinfo(np.uint16).max)
    return np.asarray(newest)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _write(path: Path, content: dict[str, Any] | npt.NDArray[np.void]) -> None:
    """Write a file so that it is there whole, or not at all."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        if isinstance(content, dict):
            file.write(json.dumps(content, indent=1).encode() + b"\n")
        else:
            np.save(file, content, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    flush_path(path.parent)
