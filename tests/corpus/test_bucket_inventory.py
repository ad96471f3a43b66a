"""Inventories of the bucket: found, checked, frozen, and used again without a network."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bucket_server import DATE, REPORTS, BucketServer, Paper, build_objects, build_report

from biomedllama_cli.corpus.bucket import FetchResult, fetch_articles
from biomedllama_cli.corpus.bucket import inventory as inventory_module
from biomedllama_cli.corpus.bucket.client import Patience
from biomedllama_cli.corpus.bucket.inventory import build_shard_path, freeze_inventory, load_inventory
from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.settings.prepare import BucketSettings, SelectionSettings

QUICK = Patience(attempts=2, first_delay=0.01)
PAPERS = [Paper(n) for n in (3, 1, 2)]


def fetch(server: BucketServer, folder: Path, inventory: str = DATE, url: str | None = None) -> FetchResult:
    settings = BucketSettings(inventory=inventory, bucket_url=url or server.url)
    return fetch_articles(settings, SelectionSettings(), folder, patience=QUICK)


def test_a_frozen_inventory_states_date_and_digests_of_each_file(tmp_path: Path) -> None:
    with BucketServer(build_objects(PAPERS)) as server:
        result = fetch(server, tmp_path)
        facts = json.loads((tmp_path / DATE / "inventory.json").read_text())
        for number, shard in enumerate(facts["shards"]):
            content = (tmp_path / DATE / f"shard-{number:05d}.csv.gz").read_bytes()
            assert content == server.objects[shard["key"]]
            assert shard["sha256"] == hashlib.sha256(content).hexdigest()
            assert shard["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert (facts["date"], facts["versions"], facts["articles"], len(facts["shards"])) == (DATE, 3, 3, 2)
    assert result.date == DATE
    assert result.inventory_sha256 == facts["sha256"]


def test_articles_are_sorted_by_number_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    with BucketServer(build_objects([Paper(n) for n in (9, 100, 20)])) as server:
        fetch(server, tmp_path)
    inventory = load_inventory(tmp_path / DATE)
    assert inventory is not None
    assert inventory.articles["pmcid"].tolist() == [9, 20, 100]
    assert inventory.articles.itemsize == 24  # what memory grows by with each article


def test_latest_is_the_newest_day_that_is_listed(tmp_path: Path) -> None:
    objects = build_objects(PAPERS)
    for day in range(10, 20):
        objects |= build_objects([Paper(1)], date=f"2026-11-{day}")
    with BucketServer(objects) as server:
        server.page_size = 4  # so that the list has several pages
        assert fetch(server, tmp_path, "latest").date == DATE
        assert server.requests["?"] == 3


def test_a_day_whose_manifest_is_not_written_yet_is_passed_over(tmp_path: Path) -> None:
    objects = build_objects(PAPERS) | {f"{REPORTS}2026-11-21T01-00Z/manifest.checksum": b"x"}
    with BucketServer(objects) as server:
        assert fetch(server, tmp_path, "latest").date == DATE


def test_latest_goes_on_with_an_unfinished_day_before_it_takes_a_newer_one(tmp_path: Path) -> None:
    with BucketServer(build_objects(PAPERS)) as server:
        server.faults["PMC2.1/PMC2.1.xml"] = ["503"] * 2
        with pytest.raises(UnavailableError):
            fetch(server, tmp_path, "latest")
        server.objects |= build_objects([*PAPERS, Paper(4)], date="2026-11-21")
        assert fetch(server, tmp_path, "latest").date == DATE
        assert fetch(server, tmp_path, "latest").date == "2026-11-21"


def test_latest_without_a_network_is_the_newest_day_on_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with BucketServer(build_objects(PAPERS)) as server:
        result = fetch(server, tmp_path)
    assert fetch(server, tmp_path, "latest") == result
    assert "using that of 2026-11-20" in caplog.text


def test_a_day_at_another_hour_is_found_in_the_list(tmp_path: Path) -> None:
    objects = build_objects(PAPERS)
    objects[f"{REPORTS}{DATE}T05-30Z/manifest.json"] = objects.pop(f"{REPORTS}{DATE}T01-00Z/manifest.json")
    with BucketServer(objects) as server:
        assert fetch(server, tmp_path).kept == 3


def test_a_copy_that_cannot_be_listed_serves_a_named_day(tmp_path: Path) -> None:
    with BucketServer(build_objects(PAPERS)) as server:
        assert fetch(server, tmp_path).kept == 3
        assert "?" not in server.requests


def test_a_copy_in_a_folder_of_its_host_is_served_by_path(tmp_path: Path) -> None:
    objects = {f"mirrors/pmc/{key}": content for key, content in build_objects(PAPERS).items()}
    with BucketServer(objects) as server:
        assert fetch(server, tmp_path, url=f"{server.url}/mirrors/pmc/").kept == 3


def test_a_day_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    objects = build_objects(PAPERS) | build_objects(PAPERS, date="2026-11-02")
    with BucketServer(objects) as server, pytest.raises(DataError, match="2026-11-02 to 2026-11-20"):
        fetch(server, tmp_path, "2025-01-01")


@pytest.mark.parametrize("inventory", ["yesterday", "../2026-11-20", "2026-11-20/..", "20261120", ""])
def test_what_names_no_day_is_refused(tmp_path: Path, inventory: str) -> None:
    with pytest.raises(SettingsError, match="is no day"):
        fetch_articles(BucketSettings(inventory=inventory), SelectionSettings(), tmp_path)


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "a.org", "https://", "https://u:p@a.org", "https://a.org?x=1", "http://a:b"]
)
def test_what_is_no_address_of_a_bucket_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="bucket_url"):
        fetch_articles(BucketSettings(inventory=DATE, bucket_url=url), SelectionSettings(), tmp_path)


def test_a_damaged_shard_is_never_frozen(tmp_path: Path) -> None:
    with BucketServer(build_objects(PAPERS)) as server:
        shard = next(key for key in server.objects if key.endswith("0.csv.gz"))
        whole = server.objects[shard]
        server.objects[shard] = whole[:-20] + bytes(20)
        with pytest.raises(DataError, match="damaged"):
            fetch(server, tmp_path)
        assert load_inventory(tmp_path / DATE) is None
        server.objects[shard] = whole
        assert fetch(server, tmp_path).kept == 3


def test_rows_of_another_kind_are_counted(tmp_path: Path) -> None:
    objects = build_objects(PAPERS)
    rows = [f'"pmc-oa-opendata","metadata/{p.name}.json","x","{p.version:032d}"' for p in PAPERS[:1]]
    bad = [
        '"another-bucket","metadata/PMC1.1.json","x","00000000000000000000000000000000"',
        '"pmc-oa-opendata","metadata/../PMC1.1.json","x","00000000000000000000000000000000"',
        '"pmc-oa-opendata","metadata/PMC1.1.json","x","0000-2"',
        '"pmc-oa-opendata","metadata/PMC99999999999.1.json","x","00000000000000000000000000000000"',
        '"pmc-oa-opendata"',
        '"pmc-oa-opendata,"x',
        "x" * 100_000,
        "\x00",
        "",
    ]
    objects |= build_report(["\n".join(rows + bad).encode()], DATE)
    with BucketServer(objects) as server:
        del server.objects["metadata/PMC3.1.json"]
        result = fetch(server, tmp_path)
    assert (result.considered, result.bad_rows) == (1, len(bad))


def test_columns_are_found_by_the_schema(tmp_path: Path) -> None:
    objects = build_objects(PAPERS)
    digest = hashlib.md5(PAPERS[0].metadata, usedforsecurity=False).hexdigest()
    row = f'"{digest}","true","metadata/PMC3.1.json","pmc-oa-opendata"'
    objects |= build_report([row.encode()], DATE, fileSchema="ETag, IsLatest, Key, Bucket")
    with BucketServer(objects) as server:
        assert fetch(server, tmp_path).kept == 1


def test_a_damaged_frozen_inventory_says_what_to_delete(tmp_path: Path) -> None:
    with BucketServer(build_objects(PAPERS)) as server:
        fetch(server, tmp_path)
        np.save(tmp_path / DATE / "articles.npy", np.zeros(3))
        with pytest.raises(DataError, match="another length") as raised:
            fetch(server, tmp_path)
    assert "Delete" in raised.value.hint


def test_freezing_takes_90_bytes_of_memory_for_each_article_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory_module, "_BLOCK", 1024)
    rows = 60_000
    numbers = random.Random(0).sample(range(1, 10**8), rows)
    lines = (f'"pmc-oa-opendata","metadata/PMC{n}.1.json","x","{n:032x}"\n' for n in numbers)
    with gzip.open(build_shard_path(tmp_path, 0), "wt", compresslevel=1) as file:
        file.writelines(lines)
    tracemalloc.start()
    frozen = freeze_inventory(tmp_path, DATE, ("Bucket", "Key", "LastModifiedDate", "ETag"), ["shard"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frozen.articles["pmcid"].tolist() == sorted(numbers)
    assert peak < 90 * rows + (3 << 20)  # reading one shard takes the rest


def test_versions_listed_in_any_order_and_twice_leave_the_newest() -> None:
    listed = [(7, 1), (3, 2), (7, 12), (3, 1), (7, 2), (5, 1), (3, 2)]
    versions = np.array(
        [(*pair, 0, bytes([row]) * 16) for row, pair in enumerate(listed)], inventory_module.ARTICLE
    )
    newest = inventory_module._keep_newest(versions)
    assert newest["pmcid"].tolist() == [3, 5, 7]
    assert newest["version"].tolist() == [2, 1, 12]
    assert newest["older"].tolist() == [2, 0, 2]
    assert [md5[0] for md5 in newest["md5"].tolist()] == [6, 5, 2]
