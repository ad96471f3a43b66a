"""Finding and fetching one day's inventory in the bucket."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from lxml import etree

from biomedllama_cli.corpus.bucket.address import BUCKET, INVENTORY_PREFIX, is_shard_key, parse_md5
from biomedllama_cli.corpus.bucket.client import (
    BucketClient,
    ChangedError,
    FailedError,
    GoneError,
    Patience,
    run_with_client,
)
from biomedllama_cli.corpus.bucket.inventory import (
    INVENTORY_FILE,
    Inventory,
    build_shard_path,
    freeze_inventory,
    load_inventory,
)
from biomedllama_cli.errors import DataError, SettingsError, UnavailableError

logger = logging.getLogger(__name__)

LATEST = "latest"
OFFLINE_HINT = (
    "With the articles on disk, give their folder with --source pmc --input DIR instead of --inventory."
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_REPORT = re.compile(re.escape(INVENTORY_PREFIX) + r"((\d{4}-\d{2}-\d{2})T\d{2}-\d{2}Z)/")
_NEEDED_COLUMNS = {"Bucket", "Key", "ETag"}
_MAX_LISTING_BYTES = 4 << 20
_MAX_PAGES = 100
_MAX_MANIFEST_BYTES = 4 << 20
_MAX_SHARDS = 1000
_MAX_SHARD_BYTES = 2 << 30
_HASTY_ATTEMPTS = 3  # to find out that there is no network


@dataclass(frozen=True)
class Report:
    """What a report's manifest says.

    Attributes:
        date: its day.
        schema: names of the columns.
        shards: key, MD5 and bytes of each file, in order.
    """

    date: str
    schema: tuple[str, ...]
    shards: tuple[tuple[str, bytes, int], ...]


def check_inventory(wanted: str) -> None:
    """Check that the setting names a day.

    Raises:
        SettingsError: it does not.
    """
    if wanted != LATEST and not _DATE.fullmatch(wanted):
        raise SettingsError(
            f"bucket.inventory: {wanted!r} is no day.", "Give one such as 2026-11-20, or latest."
        )


def find_frozen(folder: Path, wanted: str) -> Inventory | None:
    """Return the frozen inventory of the day wanted; for `latest`, the newest one whose fetch is not finished."""
    if wanted != LATEST:
        return load_inventory(folder / wanted)
    for date in _list_frozen(folder):
        if not (folder / date / "finished").exists():
            return load_inventory(folder / date)
    return None


def mark_finished(inventory: Inventory) -> None:
    """Note that everything chosen from an inventory was fetched: `latest` looks for a newer one from here on."""
    (inventory.folder / "finished").touch()


def _list_frozen(folder: Path) -> list[str]:
    dates = [path.parent.name for path in folder.glob("*/inventory.json")]
    return sorted((date for date in dates if _DATE.fullmatch(date)), reverse=True)


def fetch_inventory(
    folder: Path, wanted: str, base: str, patience: Patience, on_bytes: Callable[[int, int], None]
) -> Inventory:
    """Fetch the inventory of the day wanted and freeze it in a folder of its own.

    Args:
        folder: holds a folder for each day.
        wanted: a day, or `latest`.
        base: address of the bucket.
        patience: when to give up.
        on_bytes: told the bytes fetched and the bytes of all shards.

    Raises:
        UnavailableError: the bucket does not answer.
        DataError: it has no such inventory, or a damaged one.
    """

    async def fetch(client: BucketClient) -> Report:
        hasty = replace(client, patience=replace(patience, attempts=min(patience.attempts, _HASTY_ATTEMPTS)))
        report = await _find_report(hasty, wanted)
        target = folder / report.date
        if (target / INVENTORY_FILE).exists():
            return report
        target.mkdir(parents=True, exist_ok=True)
        done, total = 0, sum(size for _, _, size in report.shards)
        for number, (key, md5, size) in enumerate(report.shards):
            path = build_shard_path(target, number)
            await client.save(key, path, size, md5)
            done += size
            on_bytes(done, total)
        return report

    try:
        report = run_with_client(base, 4, patience, fetch)
    except FailedError as error:
        frozen = _list_frozen(folder) if wanted == LATEST else []
        if frozen:
            logger.warning(
                "%s cannot be asked for a newer inventory (%s): using that of %s", base, error, frozen[0]
            )
            inventory = load_inventory(folder / frozen[0])
            assert inventory is not None
            return inventory
        raise UnavailableError(f"The bucket {base} cannot be reached: {error}.", OFFLINE_HINT) from None
    except (GoneError, ChangedError):
        raise DataError(
            f"The inventory {wanted} of {base} is damaged: a file of it is missing or another one.",
            "Name another day with --inventory.",
        ) from None
    known = load_inventory(folder / report.date)
    if known is not None:
        return known
    try:
        return freeze_inventory(
            folder / report.date, report.date, report.schema, [k for k, _, _ in report.shards]
        )
    except DataError:
        for path in (folder / report.date).glob("shard-*"):
            path.unlink()
        raise


async def _find_report(client: BucketClient, wanted: str) -> Report:
    if wanted != LATEST:  # the usual hour needs no listing, which a plain copy of the bucket lacks
        try:
            return await _read_manifest(client, f"{wanted}T01-00Z")
        except GoneError:
            pass
    reports = await _list_reports(client)
    for report in sorted(reports, reverse=True):
        if wanted in (LATEST, report[:10]):
            try:
                return await _read_manifest(client, report)
            except GoneError:  # it is still being written
                logger.info("the inventory %s has no manifest yet", report)
    days = f"from {min(reports)[:10]} to {max(reports)[:10]}" if reports else "of no day"
    raise DataError(
        f"bucket.inventory: {client.base} has no inventory of {wanted}; it has those {days}.",
        "The bucket keeps them for 30 days; --inventory latest takes the newest.",
    )


async def _list_reports(client: BucketClient) -> set[str]:
    """Return the times of all inventories in the bucket."""
    reports: set[str] = set()
    query = f"list-type=2&prefix={quote(INVENTORY_PREFIX, safe='')}&delimiter=%2F"
    token: str | None = ""
    for _ in range(_MAX_PAGES):
        page = query + (f"&continuation-token={quote(token, safe='')}" if token else "")
        try:
            prefixes, token = parse_listing(await client.ask(page, _MAX_LISTING_BYTES))
        except GoneError:
            raise FailedError("it cannot be listed (404)") from None
        reports |= {match[1] for prefix in prefixes if (match := _REPORT.fullmatch(prefix))}
        if not token:
            break
    return reports


def parse_listing(document: bytes) -> tuple[list[str], str | None]:
    """Return the common prefixes of a page of S3's ListObjectsV2, and the token of the next page.

    Raises:
        DataError: it is no such page.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False)
    try:
        root = etree.fromstring(document, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise DataError(f"The bucket's list of inventories is no XML: {error}.") from None
    if etree.QName(root).localname != "ListBucketResult":
        raise DataError("The bucket's list of inventories is no ListBucketResult.", "Check --bucket-url.")
    prefixes = [str(node.text) for node in root.iterfind("{*}CommonPrefixes/{*}Prefix") if node.text]
    return prefixes, root.findtext("{*}NextContinuationToken") or None


async def _read_manifest(client: BucketClient, report: str) -> Report:
    document = await client.read(f"{INVENTORY_PREFIX}{report}/manifest.json", _MAX_MANIFEST_BYTES)
    return parse_manifest(document, report[:10])


def parse_manifest(document: bytes, date: str) -> Report:
    """Return what an inventory's manifest.json says.

    Raises:
        DataError: it is no manifest, of another bucket, or names files it must not name.
    """
    try:
        manifest = json.loads(document)
        schema = tuple(name.strip() for name in manifest["fileSchema"].split(","))
        files = [(file["key"], parse_md5(file["MD5checksum"]), file["size"]) for file in manifest["files"]]
        bucket, kind = manifest["sourceBucket"], manifest["fileFormat"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refuse(date, f"it cannot be read ({type(error).__name__}: {error})") from None
    if bucket != BUCKET or kind != "CSV" or not set(schema) >= _NEEDED_COLUMNS:
        raise _refuse(date, f"it is not a CSV list of {BUCKET} with {', '.join(sorted(_NEEDED_COLUMNS))}")
    if not 0 < len(files) <= _MAX_SHARDS:
        raise _refuse(date, f"it names {len(files)} files")
    shards = []
    for key, md5, size in files:
        if not is_shard_key(key) or md5 is None:
            raise _refuse(date, f"it names {key!r} as a file of the inventory")
        if type(size) is not int or not 0 < size <= _MAX_SHARD_BYTES:
            raise _refuse(date, f"it says that {key} has {size!r} bytes")
        shards.append((key, md5, size))
    return Report(date, schema, tuple(shards))


def _refuse(date: str, problem: str) -> DataError:
    return DataError(
        f"The manifest of the inventory of {date} cannot be used: {problem}.",
        "Name another day with --inventory.",
    )
