"""JATS files that are broken or made to harm: counted or read, never fetched, never without bounds."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.corpus.document import Dropped, Record
from biomedllama_cli.corpus.jats import parsing
from biomedllama_cli.corpus.licences import classify_prose

TITLE = "<title-group><article-title>T</article-title></title-group>"
HEAD = f"<article><front><article-meta>{TITLE}</article-meta></front>"
BOMB = '<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
SECRET = "the secret of the file"


def build(body: str, doctype: str = "", prolog: str = "") -> bytes:
    return f"{prolog}{doctype}{HEAD}<body>{body}</body></article>".encode()


def read(jats: Any, data: bytes) -> str:
    """Return the text, or the reason for which there is none; a sentence goes with each."""
    result = jats.parse(data)
    if isinstance(result, Record):
        assert "\0" not in result.text
        result.text.encode()
        return result.text
    assert isinstance(result, Dropped)
    assert len(result.problem) > 10 or result.reason == "no_text"
    assert len(result.problem) < 400
    return result.reason


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """Return the address of a server and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'<!ENTITY x "{SECRET}">'.encode())

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_files_and_addresses_in_entities_are_not_opened(
    jats: Any, tmp_path: Path, requests: tuple[str, list[str]]
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    address, asked = requests
    for target in (f"{tmp_path}/secret", f"file://{tmp_path}/secret", f"{address}/x"):
        for doctype in (
            f'<!DOCTYPE article [<!ENTITY x SYSTEM "{target}">]>',
            f'<!DOCTYPE article [<!ENTITY % p SYSTEM "{target}"> %p;]>',
            f'<!DOCTYPE article SYSTEM "{target}">',
            f'<!DOCTYPE article PUBLIC "-//NLM//DTD" "{target}" [<!ENTITY y "z">]>',
        ):
            assert read(jats, build("<p>a &x; b</p>", doctype)) in ("xml_entity", "broken_xml")
            assert read(jats, build("<p>a b</p>", doctype)) in ("T\n\na b", "broken_xml")
    include = (
        f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="{tmp_path}/secret" parse="text"/>'
    )
    assert read(jats, build(f"<p>a{include} b</p>")) == "T\n\na b"
    style = f'<?xml-stylesheet href="{address}/s.xsl"?>'
    assert read(jats, build("<p>a</p>", prolog=style)) == "T\n\na"
    assert asked == []


def test_a_dtd_that_cannot_be_reached_does_not_matter(jats: Any) -> None:
    doctype = (
        '<!DOCTYPE article PUBLIC "-//NLM//DTD Journal Publishing DTD v3.0//EN" "http://192.0.2.1/jats.dtd">'
    )
    start = time.monotonic()
    assert read(jats, build("<p>a &beta; b</p>", doctype)) == "T\n\na β b"
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "body",
    ["<p>&i;</p>", '<p><ext-link href="&i;">x</ext-link></p>', '<fig id="&i;"><label>&i;</label></fig>'],
)
def test_entity_bombs_do_not_go_off(jats: Any, body: str) -> None:
    assert read(jats, build(body, f"<!DOCTYPE article [{BOMB}]>")) in ("xml_entity", "broken_xml")


def test_entities_that_name_themselves_are_refused(jats: Any) -> None:
    doctype = '<!DOCTYPE article [<!ENTITY a "&b;"><!ENTITY b "&a;">]>'
    assert read(jats, build("<p>&a;</p>", doctype)) in ("xml_entity", "broken_xml")


@pytest.mark.parametrize(
    "tag", ["sec", "italic", "p", "list", "fn", "boxed-text", "sub-article", "alternatives"]
)
def test_deep_nesting_is_read_or_refused(jats: Any, tag: str) -> None:
    assert read(jats, build(f"<{tag}>" * 10_000 + "x" + f"</{tag}>" * 10_000)) == "broken_xml"
    assert read(jats, build(f"<{tag}>" * 240 + "x" + f"</{tag}>" * 240)) in ("T\n\nx", "no_text")


def test_deep_formulas_are_read(jats: Any) -> None:
    math = '<math xmlns="http://www.w3.org/1998/Math/MathML">{}</math>'
    body = math.format("<msup><mi>x</mi>" * 200 + "<mn>2</mn>" + "</msup>" * 200)
    assert read(jats, build(f"<p>{body}</p>")).count("^") == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"no xml",
        b"<article>",
        build("<p>a\0b</p>"),
        build("<p>a&#0;b</p>"),
        build("<p>a&#x1;b</p>"),
        build("<p>a&#xD800;b</p>"),
        build("<p>a&#xFFFE;b</p>"),
        build("<p>aXb</p>").replace(b"X", b"\xff\xfe"),
        build("<p>aXb</p>").replace(b"X", b"\xed\xa0\x80"),
        build("<p>é</p>", prolog='<?xml version="1.0" encoding="UTF-16"?>'),
        build("<p>é</p>", prolog='<?xml version="1.0" encoding="no-such"?>'),
        build("<p>é</p>", prolog='<?xml version="1.0" encoding="ascii"?>'),
        build("<p>a</i></p>"),
        build("<mml:math>a</mml:math>"),
        build("<p>a</p>")[:-20],
        build("<p>a</p>") * 2,
    ],
)
def test_what_is_not_well_formed_is_counted(jats: Any, data: bytes) -> None:
    assert read(jats, data) == "broken_xml"


@pytest.mark.parametrize("data", [b"<html/>", b"<a><article/><article/></a>", b"<front/>"])
def test_other_documents_are_counted(jats: Any, data: bytes) -> None:
    assert read(jats, data) == "other_xml"


def test_declared_encodings_are_followed(jats: Any) -> None:
    text = build("<p>Größe μ</p>").decode()
    assert read(jats, text.encode("utf-16")) == "T\n\nGröße μ"
    latin = '<?xml version="1.0" encoding="iso-8859-1"?>' + text.replace("μ", "u")
    assert read(jats, latin.encode("latin-1")) == "T\n\nGröße u"


def test_sizes_have_bounds(jats: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(jats, build("<p>" + "x" * 11_000_000 + "</p>")) == "broken_xml"
    assert read(jats, build("<b/>" * (parsing.MAX_MARKS + 1))) == "record_too_large"
    attributes = " ".join(f'a{number}=""' for number in range(parsing.MAX_MARKS))
    assert read(jats, build(f"<p {attributes}>x</p>")) == "record_too_large"
    monkeypatch.setattr(parsing, "MAX_BYTES", 1000)
    assert read(jats, build("<p>" + "x" * 1000 + "</p>")) == "record_too_large"


MEMORY = """
import resource, sys
from biomedllama_cli.corpus.jats.article import parse_article
from biomedllama_cli.settings.prepare import ArticleSettings
marks = int(sys.argv[1])
body = {
    "elements": "<b/>" * marks,
    "attributes": "<b " + " ".join(f'a{n}=""' for n in range(marks)) + "/>",
    "cells": "<table><tr>" + "<td>x</td>" * (marks // 2) + "</tr></table>",
}[sys.argv[2]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parse_article(f"<article><body><p>x</p>{body}</body></article>".encode(), "a.xml", ArticleSettings())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["elements", "attributes", "cells"])
def test_the_largest_tree_stays_below_a_gibibyte(kind: str) -> None:
    command = [sys.executable, "-c", MEMORY, str(parsing.MAX_MARKS - 10), kind]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(finished.stdout) < 1024


@pytest.mark.parametrize(
    "unit",
    [
        "<xref ref-type='bibr'>1</xref>, ",
        "[<xref ref-type='bibr'>1</xref>",
        "(see e.g. ",
        "(<xref ref-type='bibr'>Orr</xref> in ",
        "<sup>1</sup>",
        "<label>1</label>",
        "<term>a</term>",
        "<list><list-item>a</list-item></list>",
        "<fn>a</fn>",
        "<td>a</td>",
    ],
)
def test_time_is_linear_in_length(jats: Any, unit: str) -> None:
    def measure(count: int) -> float:
        data = build(f"<p>{unit * count}</p>")
        times = []
        for _ in range(3):
            start = time.process_time()
            read(jats, data)
            times.append(time.process_time() - start)
        return min(times)

    # Ten times the length: quadratic time would be a hundred times as long.
    assert measure(20_000) < 35 * measure(2_000) + 0.2


@pytest.mark.parametrize(
    "unit",
    [
        "not for ",
        "creative commons attribution - ",
        "data ",
        "U.S. government ",
        "non-commercial and ",
        "A. ",
    ],
)
def test_licences_of_any_length_are_read_in_time(unit: str) -> None:
    start = time.process_time()
    classify_prose(unit * 200_000)
    assert time.process_time() - start < 2
