"""A bucket that lies, leads elsewhere or never ends: refused or counted, nothing outside the folder, no other host."""

from __future__ import annotations

import contextlib
import gzip
import json
import tarfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from bucket_server import (
    DATE,
    REPORTS,
    BucketServer,
    Paper,
    build_inventory,
    build_objects,
    build_report,
    md5,
)

from biomedllama_cli.corpus.bucket import FetchResult, download, fetch_articles
from biomedllama_cli.corpus.bucket import client as client_module
from biomedllama_cli.corpus.bucket.client import Patience
from biomedllama_cli.corpus.bucket.listing import parse_listing
from biomedllama_cli.errors import DataError, UnavailableError
from biomedllama_cli.settings.prepare import BucketSettings, SelectionSettings

QUICK = Patience(attempts=2, first_delay=0.01, read_timeout=0.5)
GOOD = Paper(1)


def fetch(server: BucketServer, folder: Path, **settings: Any) -> FetchResult:
    bucket = BucketSettings(**{"inventory": DATE, "bucket_url": server.url} | settings)
    return fetch_articles(bucket, SelectionSettings(), folder, patience=QUICK)


def url(path: str, digest: str = md5(b"x")) -> str:
    return f"s3://pmc-oa-opendata/{path}?md5={digest}"


LIES: list[dict[str, Any]] = [
    {"pmcid": "PMC3"},
    {"pmcid": 2},
    {"pmcid": ["PMC2"]},
    {"version": 2},
    {"version": "1"},
    {"version": True},
    {"license_code": ["CC BY"]},
    {"license_code": {"CC BY": 1}},
    {"license_code": 0},
    {"is_retracted": None},
    {"is_retracted": "false"},
    {"is_retracted": 0},
    {"is_historical_ocr": "no"},
    {"is_manuscript": []},
    {"xml_url": url("PMC3.1/PMC3.1.xml")},
    {"xml_url": url("PMC2.1/../PMC3.1/PMC3.1.xml")},
    {"xml_url": url("PMC2.1/PMC2.1.xml", "")},
    {"xml_url": "s3://pmc-oa-opendata/PMC2.1/PMC2.1.xml"},
    {"xml_url": url("PMC2.1/PMC2.1.xml").replace("pmc-oa-opendata", "another-bucket")},
    {"xml_url": "http://169.254.169.254/latest/meta-data/"},
    {"xml_url": "file:///etc/passwd"},
    {"xml_url": "//localhost/PMC2.1/PMC2.1.xml?md5=" + md5(b"x")},
    {"xml_url": 7},
    {"xml_url": ""},
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: json.dumps(lie)[:60])
def test_metadata_that_contradict_themselves_are_counted_and_nothing_is_fetched_on_their_word(
    tmp_path: Path, lie: dict[str, Any]
) -> None:
    with BucketServer(build_objects([GOOD, Paper(2, claims=lie), Paper(3)])) as server:
        result = fetch(server, tmp_path)
        assert not any("PMC2.1/" in key for key in server.requests)
    assert result.dropped == {"bad_metadata": 1}
    assert result.kept == 2


BODIES = [
    b"",
    b"[]",
    b"null",
    b"{",
    b"\xff\xfe{}",
    b'{"pmcid": "PMC2\\ud800"}',
    b"[" * 100_000,
    b"\0" * 1000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:20]))
def test_metadata_that_are_no_json_are_counted(tmp_path: Path, body: bytes) -> None:
    objects = build_objects([GOOD, Paper(2)])
    objects["metadata/PMC2.1.json"] = body
    objects |= build_inventory(objects, DATE)
    with BucketServer(objects) as server:
        result = fetch(server, tmp_path)
    assert (result.kept, result.dropped) == (1, {"bad_metadata": 1})


def test_a_false_licence_in_metadata_that_the_inventory_does_not_know_is_not_believed(tmp_path: Path) -> None:
    with BucketServer(build_objects([GOOD, Paper(2, licence="CC BY-NC")])) as server:
        server.objects["metadata/PMC2.1.json"] = Paper(2, licence="CC0").metadata
        result = fetch(server, tmp_path)
    assert (result.kept, result.dropped) == (1, {"changed_since_inventory": 1})


def test_xml_with_another_md5_than_its_metadata_say_is_never_kept(tmp_path: Path) -> None:
    lie = {"xml_url": url("PMC2.1/PMC2.1.xml", md5(b"another"))}
    with BucketServer(build_objects([GOOD, Paper(2, claims=lie)])) as server:
        result = fetch(server, tmp_path)
    assert (result.kept, result.dropped) == (1, {"changed_since_inventory": 1})
    with tarfile.open(result.bundles[0]) as archive:
        assert archive.getnames() == ["PMC1.1/PMC1.1.json", "PMC1.1/PMC1.1.xml"]


@pytest.mark.parametrize("key", ["metadata/PMC1.1.json", "PMC1.1/PMC1.1.xml"])
def test_a_redirect_is_never_followed(tmp_path: Path, key: str) -> None:
    with BucketServer({}) as other, BucketServer(build_objects([GOOD])) as server:
        server.faults[key] = [f"redirect {other.url}/stolen"] * 2
        with pytest.raises(UnavailableError, match="redirects to"):
            fetch(server, tmp_path)
        assert not other.requests


def test_a_redirect_of_the_first_request_says_so(tmp_path: Path) -> None:
    with BucketServer({}) as other, BucketServer(build_objects([GOOD])) as server:
        server.faults["*"] = [f"redirect {other.url}/stolen"] * 2
        with pytest.raises(UnavailableError, match=r"redirects to .*stolen"):
            fetch(server, tmp_path)
        assert not other.requests


MANIFESTS: list[dict[str, Any]] = [
    {"files": [{"key": "inventory-reports/../../secret.csv.gz", "size": 9, "MD5checksum": md5(b"x")}]},
    {"files": [{"key": "http://127.0.0.1:1/x.csv.gz", "size": 9, "MD5checksum": md5(b"x")}]},
    {"files": [{"key": "/etc/passwd", "size": 9, "MD5checksum": md5(b"x")}]},
    {"files": [{"key": "inventory-reports/x.csv.gz", "size": 1 << 50, "MD5checksum": md5(b"x")}]},
    {"files": [{"key": "inventory-reports/x.csv.gz", "size": "9", "MD5checksum": md5(b"x")}]},
    {"files": [{"key": "inventory-reports/x.csv.gz", "size": 9, "MD5checksum": "x"}]},
    {"files": [{"key": "inventory-reports/x.csv.gz", "size": 9}]},
    {
        "files": [
            {"key": f"inventory-reports/{n}.csv.gz", "size": 9, "MD5checksum": md5(b"x")} for n in range(2000)
        ]
    },
    {"files": []},
    {"files": 5},
    {"sourceBucket": "another"},
    {"fileFormat": "ORC"},
    {"fileSchema": "Bucket, Key"},
    {"fileSchema": 5},
]


@pytest.mark.parametrize("claims", MANIFESTS, ids=lambda claims: json.dumps(claims)[:70])
def test_a_manifest_that_leads_elsewhere_is_refused_before_anything_is_fetched(
    tmp_path: Path, claims: dict[str, Any]
) -> None:
    with BucketServer(build_objects([GOOD]) | build_report([b"x"], DATE, **claims)) as server:
        with pytest.raises(DataError, match="cannot be used"):
            fetch(server, tmp_path)
        assert set(server.requests) == {f"{REPORTS}{DATE}T01-00Z/manifest.json"}


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"files": null}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, body: bytes) -> None:
    objects = build_objects([GOOD]) | {f"{REPORTS}{DATE}T01-00Z/manifest.json": body}
    with BucketServer(objects) as server, pytest.raises(DataError, match="cannot be used"):
        fetch(server, tmp_path)


def test_answers_without_end_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_MAX_XML_BYTES", 1 << 20)
    with BucketServer(build_objects([GOOD, Paper(2)])) as server:
        server.faults["PMC2.1/PMC2.1.xml"] = ["endless"]
        with pytest.raises(UnavailableError, match="more than the 1048576 bytes"):
            fetch(server, tmp_path)
        server.faults["metadata/PMC1.1.json"] = ["endless"]
        with pytest.raises(UnavailableError, match="more than the 1048576 bytes"):
            fetch(server, tmp_path / "other")
        server.faults[f"{REPORTS}{DATE}T01-00Z/manifest.json"] = ["endless"]
        with pytest.raises(UnavailableError, match="more than the 4194304 bytes"):
            fetch(server, tmp_path / "third")
    assert not list(tmp_path.rglob("*.new"))


def test_a_gzip_bomb_in_the_inventory_is_read_in_bounded_memory(tmp_path: Path) -> None:
    row = f'"pmc-oa-opendata","metadata/PMC1.1.json","x","{md5(GOOD.metadata)}"\n'.encode()
    objects = build_objects([GOOD]) | build_report([row + b"x" * (200 << 20)], DATE)
    with BucketServer(objects) as server:
        tracemalloc.start()
        result = fetch(server, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (result.kept, result.bad_rows) == (1, 1)
    assert peak < 50 << 20


def test_a_shard_that_is_no_gzip_is_refused_and_forgotten(tmp_path: Path) -> None:
    objects = build_objects([GOOD])
    shard = next(key for key in objects if key.endswith("0.csv.gz"))
    content = b"no gzip at all"
    files = [{"key": shard, "size": len(content), "MD5checksum": md5(content)}]
    objects |= build_report([b""], DATE, files=files) | {shard: content}
    with BucketServer(objects) as server, pytest.raises(DataError, match="cannot be read"):
        fetch(server, tmp_path)
    assert not list(tmp_path.rglob("shard-*"))


def test_an_answer_that_trickles_is_cut_and_tried_again(tmp_path: Path) -> None:
    with BucketServer(build_objects([GOOD])) as server:
        server.faults["PMC1.1/PMC1.1.xml"] = ["stall"]
        begin = time.monotonic()
        assert fetch(server, tmp_path).kept == 1
        assert time.monotonic() - begin < 10


def test_a_pause_that_the_bucket_asks_for_is_bounded() -> None:
    asked = client_module.parse_retry_after("999999999")
    assert Patience().draw_delay(0, asked) == Patience().longest_delay
    assert client_module.parse_retry_after("9" * 5000) is not None
    assert client_module.parse_retry_after("-5") is None


LISTING = "<!DOCTYPE x [{}]><ListBucketResult><CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes></ListBucketResult>"


def test_the_list_of_inventories_resolves_no_entities(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    entity = f'<!ENTITY e SYSTEM "{secret.as_uri()}">'
    prefixes, _ = parse_listing(LISTING.format(entity, "a&e;b").encode())
    assert "SECRET" not in "".join(prefixes)
    bomb = '<!ENTITY a "x">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 20}">' for n in range(10)
    )
    with contextlib.suppress(DataError):  # the parser may also refuse it
        assert sum(map(len, parse_listing(LISTING.format(bomb, "&k;").encode())[0])) < 1000


@pytest.mark.parametrize("body", [b"", b"<html/>", b"{}", b"<a>" * 100_000, "<a/>".encode("utf-16")])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(DataError):
        parse_listing(body)


def test_links_in_the_folder_are_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = tmp_path / "pmc"
    staging = folder / DATE / "all" / "cc-by" / "articles-00000.partial"
    staging.mkdir(parents=True)
    (staging / "PMC1.1.xml").symlink_to(outside)
    with BucketServer(build_objects([GOOD])) as server:
        assert fetch(server, folder).kept == 1
    assert outside.read_text() == "mine"
    assert gzip.decompress((folder / DATE / "shard-00000.csv.gz").read_bytes())
