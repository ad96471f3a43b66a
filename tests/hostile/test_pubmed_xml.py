"""Broken and malicious PubMed XML: told with file and record, or counted; nothing fetched, memory bounded."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.corpus.document import Deletion, Dropped, Item, Record
from biomedllama_cli.corpus.sources import xml_stream
from biomedllama_cli.corpus.sources.pubmed import PubmedReader
from biomedllama_cli.errors import DataError

Measure = Callable[[str, Path], tuple[int, str, int]]
Read = Callable[[bytes], list[Item]]
GOOD = (
    "<PubmedArticle><MedlineCitation><PMID Version='1'>{}</PMID><Article><ArticleTitle>Title.</ArticleTitle>"
    "<Abstract><AbstractText>{}</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>\n"
)
READER = "biomedllama_cli.corpus.sources.pubmed:PubmedReader"


def good(pmid: int, text: str = "Abstract.") -> bytes:
    return GOOD.format(pmid, text).encode()


def wrap(body: bytes, doctype: bytes = b"") -> bytes:
    return b"<?xml version='1.0'?>" + doctype + b"<PubmedArticleSet>" + body + b"</PubmedArticleSet>"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return a function that reads one document while every way to the network is barred."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("something asked for the network")

    def start(data: bytes) -> list[Item]:
        path = tmp_path / "a.xml"
        path.write_bytes(data)
        with monkeypatch.context() as barred:
            barred.setattr(socket, "socket", refuse)
            barred.setattr(socket, "getaddrinfo", refuse)
            reader = PubmedReader()
            (file,) = reader.list_inputs((str(path),))
            return list(reader.iter_documents(file, lambda position: None))

    return start


def reasons(items: list[Item]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Dropped)]


def pmids(items: list[Item]) -> list[int | None]:
    return [item.metadata.pmid for item in items if isinstance(item, Record) and item.metadata]


def test_external_entity_is_not_read_and_costs_only_its_record(read: Read, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    doctype = (
        f'<!DOCTYPE PubmedArticleSet [<!ENTITY x SYSTEM "{secret.as_uri()}"><!ENTITY y "inner">]>'.encode()
    )
    items = read(wrap(good(1) + good(2, "A &x; b") + good(3, "A &y; b") + good(4), doctype))
    assert (pmids(items), reasons(items)) == ([1, 4], ["xml_entity", "xml_entity"])
    assert "the secret" not in repr(items)
    assert isinstance(items[1], Dropped)
    assert "record 2 (PMID 2)" in items[1].where
    assert "&x;" in items[1].problem


@pytest.mark.parametrize("place", ["text", "attribute", "parameter"])
def test_entity_bomb_explodes_nowhere(read: Read, place: str) -> None:
    sign = "%" if place == "parameter" else "&"
    declare = "<!ENTITY % e{} '{}'>" if place == "parameter" else "<!ENTITY e{} '{}'>"
    levels = [declare.format(0, "ha" * 20)]
    levels += [declare.format(level, f"{sign}e{level - 1};" * 12) for level in range(1, 12)]
    tail = "%e11;" if place == "parameter" else ""
    doctype = f"<!DOCTYPE PubmedArticleSet [{''.join(levels)}{tail}]>".encode()
    bomb = b"<PubmedArticle><MedlineCitation><PMID Version='&e11;'>2</PMID></MedlineCitation></PubmedArticle>"
    items = read(wrap(good(1) + (bomb if place == "attribute" else good(2, "&e11;")), doctype))
    assert len(reasons(items)) == 1
    assert set(reasons(items)) <= {"broken_xml", "xml_entity", "bad_version", "no_article"}
    assert len(repr(items)) < 5000


def test_remote_dtd_and_parameter_entity_are_never_fetched(read: Read) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    doctype = (
        f'<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle//EN" "{address}/pubmed.dtd" '
        f'[<!ENTITY % remote SYSTEM "{address}/remote.dtd"> %remote; <!ENTITY z SYSTEM "{address}/z">]>'
    )
    items = read(wrap(good(1) + good(2, "A &z; b"), doctype.encode()))
    assert pmids(items) == [1]
    assert reasons(items) == ["xml_entity"]
    with pytest.raises(TimeoutError):
        server.accept()  # C code would not have met the barred sockets of Python
    server.close()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (good(2, "a \0 b"), "broken_xml"),
        (good(2, "a XX b").replace(b"XX", b"\xff\xfe"), "broken_xml"),
        (good(2, "a XX b").replace(b"XX", b"\xed\xa0\x80"), "broken_xml"),  # half a surrogate pair in UTF-8
        (good(2, "a &#xD800; b"), "broken_xml"),
        (good(2, "a &#0; b"), "broken_xml"),
        (good(2, "<b>" * 5000 + "</b>" * 5000), "broken_xml"),
        (good(2)[:-20], "broken_xml"),
        (b"<PubmedArticle/></PubmedArticleSet><PubmedArticleSet>", "no_pmid,broken_xml"),
    ],
)
def test_break_in_the_xml_keeps_what_was_before_and_tells_what_is_lost(
    read: Read, bad: bytes, reason: str
) -> None:
    items = read(wrap(good(1) + bad + good(3)))
    assert (pmids(items), ",".join(reasons(items))) == ([1], reason)
    last = items[-1]
    assert isinstance(last, Dropped)
    assert "a.xml, record" in last.where
    assert last.problem.endswith("the rest of the file is lost")
    assert "\n" not in last.problem


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"<PubmedArticle/>", "no_pmid"),
        (b"<PubmedArticle><MedlineCitation><PMID/></MedlineCitation></PubmedArticle>", "no_pmid"),
        (good(2).replace(b">2<", b">-2<"), "no_pmid"),
        (good(2).replace(b">2<", b">2e3<"), "no_pmid"),
        (good(2).replace(b">2<", b">" + b"9" * 5000 + b"<"), "no_pmid"),
        (good(2).replace(b"Version='1'", b"Version='new'"), "bad_version"),
        (b"<PubmedArticle><MedlineCitation><PMID>2</PMID></MedlineCitation></PubmedArticle>", "no_article"),
        (good(2, "&chi;&unknown;"), "xml_entity"),
        (
            good(2, "<m:math xmlns:m='http://www.w3.org/1998/Math/MathML'><m:mi>&x;</m:mi></m:math>"),
            "xml_entity",
        ),
        (b"<PubmedBookArticle><MedlineCitation/></PubmedBookArticle>", "no_pmid"),
        (b"<DeleteCitation><PMID>x</PMID></DeleteCitation>", "no_pmid"),
    ],
)
def test_one_broken_record_costs_only_itself(read: Read, bad: bytes, reason: str) -> None:
    doctype = b'<!DOCTYPE PubmedArticleSet SYSTEM "pubmed.dtd">'
    items = read(wrap(good(1) + bad + good(3), doctype))
    assert (pmids(items), reasons(items)) == ([1, 3], [reason])
    assert all(item.problem for item in items if isinstance(item, Dropped))


def test_entities_of_html_are_characters_without_any_dtd(read: Read) -> None:
    doctype = b'<!DOCTYPE PubmedArticleSet SYSTEM "pubmed.dtd">'
    (item,) = read(wrap(good(1, "&alpha;&nbsp;&lt; <i>&beta;</i>&hellip;"), doctype))
    assert isinstance(item, Record)
    assert item.text.endswith("\n\nα < β…")


def test_records_inside_records_are_not_taken_for_records(read: Read) -> None:
    nested = (
        b"<PubmedArticle>" + good(2) + b"<MedlineCitation><PMID>5</PMID></MedlineCitation></PubmedArticle>"
    )
    items = read(wrap(nested + b"<Other><DeleteCitation><PMID>1</PMID></DeleteCitation></Other>" + good(3)))
    assert (pmids(items), reasons(items)) == ([3], ["no_article"])
    assert not [item for item in items if isinstance(item, Deletion)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "broken_xml"),
        (b"not xml", "broken_xml"),
        (b"\0" * 1000, "broken_xml"),
        (b'{"pmid": 1}', "broken_xml"),
        (b"<?xml version='1.0' encoding='klingon'?><PubmedArticleSet/>", "broken_xml"),
        (b"<article><front/></article>", "other_xml"),
        (b"<html><PubmedArticleSet>" + good(1) + b"</PubmedArticleSet></html>", "other_xml"),
    ],
)
def test_file_that_is_not_pubmed_xml_is_one_drop(read: Read, data: bytes, reason: str) -> None:
    items = read(data)
    assert (len(items), reasons(items)) == (1, [reason])


def test_duplicate_ids_all_come_through_for_the_global_rules(read: Read) -> None:
    assert pmids(read(wrap(good(1, "First.") + good(1, "Second.") + good(1, "First.")))) == [1, 1, 1]


@pytest.mark.parametrize("cut", [30, -4])
def test_truncated_gzip_is_told_as_such(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "pubmed26n0001.xml.gz"
    path.write_bytes(gzip.compress(wrap(good(1) + good(2)))[:cut])
    (file,) = PubmedReader().list_inputs((str(path),))
    items = list(PubmedReader().iter_documents(file, lambda position: None))
    assert reasons(items) == ["truncated_stream"]


@pytest.mark.parametrize(
    "content", ["", "MD5(other.xml)= " + "0" * 32, "no md5 here", "\0" * 100_000, "0" * 31 + "\n", "é" * 32]
)
def test_sidecar_that_says_nothing_of_the_file_is_not_passed_over(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(wrap(good(1)))
    (tmp_path / "a.xml.md5").write_text(content)
    (file,) = PubmedReader().list_inputs((str(path),))
    (item,) = PubmedReader().iter_documents(file, lambda position: None)
    assert isinstance(item, Dropped)
    assert (item.reason, item.problem) == ("wrong_md5", "its sidecar a.xml.md5 holds no MD5 of it")


def test_unreadable_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(wrap(good(1)))
    (file,) = PubmedReader().list_inputs((str(path),))
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"a\.xml cannot be read"):
        list(PubmedReader().iter_documents(file, lambda position: None))


def test_record_beyond_the_bound_ends_the_file(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_stream.iter_elements, "__defaults__", (200_000,))
    items = read(wrap(good(1, "x" * 90_000) + good(2, "x" * 90_000) + good(3, "<b/>" * 100_000) + good(4)))
    assert (pmids(items), reasons(items)) == ([1, 2], ["record_too_large"])


def write_bomb(path: Path, head: bytes, piece: bytes, megabytes: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(head)
        block = piece * ((1 << 20) // len(piece))
        for _ in range(megabytes):
            stream.write(block)


BEGIN = b"<PubmedArticleSet>" + good(1) + b"<PubmedArticle><MedlineCitation><PMID>2</PMID>"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (BEGIN + b"<Article>", b"x"),  # one line, one text
        (BEGIN + b"<Article a='", b"x"),
        (BEGIN + b"<!--", b"x"),
        (BEGIN + b"<", b"x"),
        (BEGIN, b"<a/>"),
        (BEGIN, b"&a;"),
        (b"<PubmedArticleSet>" + good(1), b"\n"),
        (b"<PubmedArticleSet>" + good(1), b"<?p?>"),
        (b"<!DOCTYPE PubmedArticleSet [", b"<!ENTITY a 'b'>"),
    ],
    ids=["text", "attribute", "comment", "name", "elements", "entities", "space", "instructions", "dtd"],
)
def test_line_of_one_gigabyte_and_other_bombs_stay_small_in_memory(
    tmp_path: Path, measure: Measure, head: bytes, piece: bytes
) -> None:
    bomb = tmp_path / "bomb.xml.gz"
    write_bomb(bomb, head, piece, 1024 if piece == b"x" else 256)
    assert bomb.stat().st_size < 16 << 20
    records, found, megabytes = measure(READER, bomb)
    assert found in ("broken_xml", "record_too_large")
    assert records == (0 if b"DOCTYPE" in head else 1)
    assert megabytes < 640


def test_memory_is_flat_in_the_length_of_the_file(tmp_path: Path, measure: Measure) -> None:
    peaks = []
    for megabytes in (6, 60):
        path = tmp_path / f"{megabytes}.xml.gz"
        records = [good(pmid, f"Iron {pmid} " * 200) for pmid in range(1, 400)]
        with gzip.open(path, "wb", compresslevel=1) as stream:
            stream.write(b"<PubmedArticleSet>")
            written = 0
            while written < megabytes << 20:
                written += sum(stream.write(record) for record in records)
            stream.write(b"</PubmedArticleSet>")
        count, found, peak = measure(READER, path)
        assert (found, count > 1000 * megabytes // 4) == ("-", True)
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 8
