"""Broken and malicious archives, articles and metadata: counted; nothing written, nothing fetched, memory bounded."""

from __future__ import annotations

import gzip
import json
import os
import socket
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.corpus.document import Dropped, Item, Record
from biomedllama_cli.corpus.sources import pmc
from biomedllama_cli.corpus.sources.pmc import PmcReader

Members = Iterable[tuple[str | tarfile.TarInfo, bytes]]


def read(path: Path) -> list[Item]:
    reader = PmcReader()
    return [
        item
        for file in reader.list_inputs((str(path),))
        for item in reader.iter_documents(file, lambda position: None)
    ]


def reasons(items: list[Item]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Dropped)]


def pmcids(items: list[Item]) -> list[int | None]:
    return [item.metadata.pmcid for item in items if isinstance(item, Record) and item.metadata]


@pytest.fixture
def read_tar(tmp_path: Path, pmc_files: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Item]]:
    """Return a function that reads an archive of these members between two good ones, in an empty folder."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)

    def start(members: Members, **options: Any) -> list[Item]:
        around = [("good/1.xml", pmc_files.make_jats(1)), ("good/2.xml", pmc_files.make_jats(2))]
        path = pmc_files.write_tar(tmp_path / "a.tar.gz", [around[0], *members, around[1]], **options)
        items = read(path)
        assert sorted(child.name for child in tmp_path.rglob("*")) == ["a.tar.gz", "inside"]
        return items

    return start


def make_special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ("../evil.xml", "leads out"),
        ("good/../../evil.xml", "leads out"),
        ("good\\..\\..\\evil.xml", "leads out"),
        ("/tmp/evil.xml", "is absolute"),
        ("C:\\evil.xml", "is absolute"),
        ("/etc/cron.d/evil", "is absolute"),
        (make_special("link.xml", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (make_special("hard.xml", tarfile.LNKTYPE, "good/1.xml"), "is a link"),
        (make_special("link", tarfile.SYMTYPE, ".."), "is a link"),
        (make_special("device.xml", tarfile.CHRTYPE), "neither a file nor a folder"),
        (make_special("disk", tarfile.BLKTYPE), "neither a file nor a folder"),
        (make_special("pipe.xml", tarfile.FIFOTYPE), "neither a file nor a folder"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else None,
)
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_dangerous_member_is_counted_and_the_rest_read(
    read_tar: Callable[..., list[Item]], pmc_files: Any, member: Any, problem: str, kind: int
) -> None:
    items = read_tar([(member, pmc_files.make_jats(6))], format=kind)
    assert (pmcids(items), reasons(items)) == ([1, 2], ["unsafe_archive_member"])
    assert problem in next(item.problem for item in items if isinstance(item, Dropped))


def test_names_of_headers_of_any_kind_are_looked_at(
    read_tar: Callable[..., list[Item]], pmc_files: Any
) -> None:
    hidden = tarfile.TarInfo("good/innocent.xml")
    hidden.pax_headers = {"path": "../../" + "long/" * 60 + "evil.xml"}
    items = read_tar([(hidden, pmc_files.make_jats(6))], format=tarfile.PAX_FORMAT)
    assert reasons(items) == ["unsafe_archive_member"]
    items = read_tar([("../" * 60 + "evil.xml", pmc_files.make_jats(6))], format=tarfile.GNU_FORMAT)
    assert reasons(items) == ["unsafe_archive_member"]


def test_names_that_would_upset_a_terminal_are_shown_harmless(
    read_tar: Callable[..., list[Item]], pmc_files: Any
) -> None:
    items = read_tar([("a\x1b[2J\nb\u202e.xml", b"<not/>"), (b"\xff\xfe.xml".decode("latin-1"), b"<not/>")])
    shown = [item.where for item in items if isinstance(item, Dropped)]
    assert len(shown) == 2
    assert all(where.isprintable() for where in shown)


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (b"", "broken_xml"),
        (b"\0\0\0", "broken_xml"),
        (b"<article>\xff</article>", "broken_xml"),
        (b"<article><p>\xed\xa0\x80</p></article>", "broken_xml"),
        (b"<article><p>&#xDC00;</p></article>", "broken_xml"),
        (b"<article>" + b"<sec>" * 10_000, "broken_xml"),
        (b"<html/>", "other_xml"),
        (
            b"<!DOCTYPE article [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><article><p>&x;</p></article>",
            "xml_entity",
        ),
    ],
    ids=["empty", "nul", "bytes", "surrogate", "reference", "deep", "html", "entity"],
)
def test_broken_article_costs_only_itself(
    read_tar: Callable[..., list[Item]], xml: bytes, reason: str
) -> None:
    items = read_tar([("bad.xml", xml)])
    assert (pmcids(items), reasons(items)) == ([1, 2], [reason])
    assert "root:" not in repr(items)


def test_dtd_and_entities_of_an_article_are_never_fetched(
    read_tar: Callable[..., list[Item]], pmc_files: Any
) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    doctype = (
        f'<!DOCTYPE article PUBLIC "-//NLM//DTD JATS v1.3//EN" "{address}/jats.dtd" '
        f'[<!ENTITY % remote SYSTEM "{address}/remote.dtd"> %remote;]><article '
    )
    items = read_tar([("dtd.xml", pmc_files.make_jats(3).replace(b"<article ", doctype.encode(), 1))])
    assert pmcids(items) == [1, 3, 2]
    with pytest.raises(TimeoutError):
        server.accept()
    server.close()


@pytest.mark.parametrize(
    "change",
    [
        {"pmcid": "PMC2"},
        {"pmcid": 1},
        {"pmcid": None},
        {"version": "1"},
        {"version": 2},
        {"version": True},
        {"license_code": ["CC BY"]},
        {"license_code": {"code": "CC BY"}},
        {"license_code": 0},
        {"is_retracted": "false"},
        {"is_retracted": None},
        {"is_manuscript": 0},
        {"xml_url": "https://example.org/PMC1.1.xml?md5=" + "0" * 32},
        {"xml_url": "s3://pmc-oa-opendata/PMC1.1/../PMC1.1.xml?md5=" + "0" * 32},
        {"xml_url": 5},
        {"xml_url": "s3://pmc-oa-opendata/PMC1.1/PMC1.1.xml"},
    ],
    ids=str,
)
def test_metadata_of_wrong_types_or_of_another_article_are_not_relied_on(
    read_tar: Callable[..., list[Item]], pmc_files: Any, change: dict[str, Any]
) -> None:
    xml = pmc_files.make_jats(1)
    items = read_tar([("PMC1.1.json", pmc_files.make_metadata(1, xml, **change)), ("PMC1.1.xml", xml)])
    assert (pmcids(items), reasons(items)) == ([1, 2], ["bad_metadata"])
    assert all(
        item.metadata is None or item.metadata.licence is None for item in items if isinstance(item, Dropped)
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"PMC1"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"pmcid": "\\ud800"}',
        b'{"pmcid": "\xff"}',
        b'{"version": NaN}',
        b"\0",
        b" " * (2 << 20),
    ],
    ids=lambda body: str(body[:8]),
)
def test_metadata_that_are_no_metadata_cost_only_their_article(
    read_tar: Callable[..., list[Item]], pmc_files: Any, body: bytes
) -> None:
    items = read_tar([("PMC1.1.json", body), ("PMC1.1.xml", pmc_files.make_jats(1))])
    assert (pmcids(items), reasons(items)) == ([1, 2], ["bad_metadata"])


def test_metadata_too_long_to_be_held_are_not_passed_over(
    read_tar: Callable[..., list[Item]], pmc_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pmc, "MAX_BYTES", 4000)
    items = read_tar([("PMC1.1.json", b" " * 5000), ("PMC1.1.xml", pmc_files.make_jats(1))])
    assert (pmcids(items), reasons(items)) == ([1, 2], ["bad_metadata"])
    items = read_tar([("long.xml", b" " * 5000)])
    assert (pmcids(items), reasons(items)) == ([1, 2], ["record_too_large"])


def test_metadata_that_lie_about_licence_or_md5(read_tar: Callable[..., list[Item]], pmc_files: Any) -> None:
    xml = pmc_files.make_jats(1, licence="CC BY-NC")
    (_, item, _) = read_tar([("PMC1.1.json", pmc_files.make_metadata(1, xml)), ("PMC1.1.xml", xml)])
    assert isinstance(item, Record)
    assert item.metadata is not None
    assert (item.metadata.licence, "licence_conflict" in item.metadata.flags) == (None, True)
    url = "s3://pmc-oa-opendata/PMC1.1/PMC1.1.xml?md5=" + "0" * 32
    (_, item, _) = read_tar(
        [("PMC1.1.json", pmc_files.make_metadata(1, xml, xml_url=url)), ("PMC1.1.xml", xml)]
    )
    assert isinstance(item, Dropped)
    assert item.reason == "wrong_md5"
    assert "0" * 32 in item.problem
    assert item.metadata is not None
    assert item.metadata.licence is None


def test_duplicate_names_and_ids_all_come_through_for_the_global_rules(
    read_tar: Callable[..., list[Item]], pmc_files: Any
) -> None:
    xml = pmc_files.make_jats(1)
    pair = [("PMC1.1.json", pmc_files.make_metadata(1, xml)), ("PMC1.1.xml", xml)]
    items = read_tar([*pair, *pair, pair[1]])
    assert (pmcids(items), reasons(items)) == ([1, 1, 1, 1, 2], [])


@pytest.mark.parametrize("cut", [100, 700, -1300, -1024 * 10])
def test_archive_that_breaks_off_is_told(tmp_path: Path, pmc_files: Any, cut: int) -> None:
    members = [(f"PMC{n}.1.xml", pmc_files.make_jats(n, text="x" * 700)) for n in (1, 2, 3)]
    whole = pmc_files.write_tar(tmp_path / "whole.tar", members).read_bytes().rstrip(b"\0")
    whole += b"\0" * (-len(whole) % 512 + 1024)
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[: cut if cut > -2000 else len(whole) - 1024])
    items = read(path)
    assert reasons(items) == ["truncated_archive"]
    assert len(pmcids(items)) == {100: 0, 700: 0, -1300: 2, -1024 * 10: 3}[cut]


def test_truncated_and_damaged_compression_is_told(tmp_path: Path, pmc_files: Any) -> None:
    members = [(f"{n}.xml", pmc_files.make_jats(n, text=os.urandom(20_000).hex())) for n in range(1, 9)]
    whole = pmc_files.write_tar(tmp_path / "a.tar.gz", members).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert reasons(read(tmp_path / "a.tar.gz")) == ["truncated_stream"]
    (tmp_path / "a.tar.gz").write_bytes(whole[:2000] + b"garbage" * 20 + whole[2140:])
    assert reasons(read(tmp_path / "a.tar.gz"))[-1] in (
        "broken_stream",
        "broken_archive",
        "truncated_archive",
    )
    (tmp_path / "a.tar.gz").write_bytes(b"no archive at all")
    assert reasons(read(tmp_path / "a.tar.gz")) == ["broken_stream"]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"no archive at all " * 1000))
    assert reasons(read(tmp_path / "a.tar.gz")) == ["broken_archive"]


def rewrite_header(header: bytes, start: int, value: bytes) -> bytes:
    """Return a tar header with a field changed and its checksum set right."""
    changed = bytearray(header)
    changed[start : start + len(value)] = value
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


@pytest.mark.parametrize(
    ("start", "value"),
    [
        (124, b"\xff" * 12),  # the size -1
        (124, b"\x80" + b"\x7f" * 11),  # 10^26 bytes
        (124, b"not a size!\0"),
        (156, b"S"),  # a sparse file
        (124, b"77777777777\0"),  # 8 GiB that are not there
    ],
)
def test_headers_that_lie_about_sizes(tmp_path: Path, pmc_files: Any, start: int, value: bytes) -> None:
    members = [(f"{n}.xml", pmc_files.make_jats(n)) for n in (1, 2, 3)]
    data = pmc_files.write_tar(tmp_path / "a.tar", members).read_bytes()
    place = data.index(b"2.xml\0")
    (tmp_path / "a.tar").write_bytes(
        data[:place] + rewrite_header(data[place : place + 512], start, value) + data[place + 512 :]
    )
    items = read(tmp_path / "a.tar")
    assert pmcids(items) == [1]
    assert reasons(items)[0] in ("broken_archive", "truncated_archive")


@pytest.mark.parametrize(
    "records", [b"9999 path=a\n", b"x path=a\n", b"11 pathxab\n", b"8 path=a", b"0 a=b\n"]
)
def test_malformed_extended_headers(tmp_path: Path, records: bytes) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    data = info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + b"\0" * 1024
    (tmp_path / "a.tar").write_bytes(data)
    assert reasons(read(tmp_path / "a.tar")) == ["broken_archive"]


def test_many_links_are_counted_one_by_one(read_tar: Callable[..., list[Item]]) -> None:
    links = [(make_special(f"{n}.xml", tarfile.SYMTYPE, "x" * 90), b"") for n in range(2000)]
    items = read_tar(links)
    assert len(reasons(items)) == 2000
    assert pmcids(items) == [1, 2]


def test_metadata_file_beside_an_article_may_be_a_folder_or_anything(tmp_path: Path, pmc_files: Any) -> None:
    xml = pmc_files.make_jats(1)
    (tmp_path / "PMC1.1.xml").write_bytes(xml)
    for body in (b"[1, 2]", json.dumps({"pmcid": "PMC1"}).encode(), b" " * (3 << 20)):
        (tmp_path / "PMC1.1.json").write_bytes(body)
        assert reasons(read(tmp_path)) == ["bad_metadata"]
    (tmp_path / "PMC1.1.json").write_bytes(pmc_files.make_metadata(1, xml))
    assert pmcids(read(tmp_path)) == [1]
