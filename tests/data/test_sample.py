"""The bundled sample: what is in it, that it may be there, and that the script in examples/ makes it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from biomedllama_cli.corpus.split import hash_content, is_held_out
from biomedllama_cli.data import SAMPLE_FOLDER, list_sample_files

ALLOWED_LICENCES = {"CC BY (version not stated)", "CC BY 3.0", "CC BY 4.0", "CC0 1.0"}


def read_records(paths: tuple[Path, ...]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for path in paths:
        with path.open("rb") as file:
            text = zstandard.ZstdDecompressor().stream_reader(file).read().decode("utf-8")
        records += [json.loads(line) for line in text.splitlines()]
    return records


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return read_records(list_sample_files())


def test_sample_holds_about_two_megabytes_of_text_in_several_files(records: list[dict[str, Any]]) -> None:
    assert len(list_sample_files()) >= 2
    assert 1_800_000 <= sum(len(record["text"].encode()) for record in records) <= 2_000_000
    assert len(records) >= 50
    assert len({record["text"] for record in records}) == len(records)


def test_five_percent_split_holds_out_documents(records: list[dict[str, Any]]) -> None:
    hashes = [hash_content(record["text"].encode())[1] for record in records]
    held_out = np.flatnonzero(is_held_out(np.array(hashes, dtype=np.uint64), 0.05))
    assert 3 <= len(held_out) <= 6


def test_records_are_in_pile_format_with_an_open_licence(records: list[dict[str, Any]]) -> None:
    for record in records:
        assert set(record) == {"text", "meta"}
        assert record["meta"]["pile_set_name"] == "PubMed Central"
        assert record["meta"]["source"] == "PLOS"
        assert record["meta"]["licence"] in ALLOWED_LICENCES
        assert record["meta"]["doi"].startswith("10.1371/journal.p")


def test_notice_attributes_every_document(records: list[dict[str, Any]]) -> None:
    notice = (SAMPLE_FOLDER / "NOTICE.md").read_text(encoding="utf-8")
    entries = re.findall(
        r"^- \*\*(.+)\*\* (.+)\. \*(PLOS .+)\*, (\d{4})\. <https://doi\.org/(\S+)>\. (.+)$", notice, re.M
    )
    by_doi = {entry[4]: entry for entry in entries}
    assert by_doi.keys() == {record["meta"]["doi"] for record in records}
    for record in records:
        title, authors, _, _, _, rest = by_doi[record["meta"]["doi"]]
        assert title == record["meta"]["title"]
        assert authors.strip(", ")
        assert f"Licence: [{record['meta']['licence']}](https://creativecommons.org/" in rest


def test_text_is_clean(records: list[dict[str, Any]]) -> None:
    for record in records:
        text = record["text"]
        assert not re.search(
            r"</?[a-z:]+[ />]|&[a-z]+;|[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u200b\ufeff\ufffd]", text
        )
        assert "  " not in text
        assert text == text.strip() + "\n"
        assert not re.search(r"^(References|Abstract|Author Summary|Supporting Information)$", text, re.M)
    everything = "".join(record["text"] for record in records)
    assert set("αβγκμ°±×≤≥′") <= set(everything), "Greek letters and signs are kept"


@pytest.fixture
def build_sample(repository: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    def build(folder: Path) -> tuple[str, Path]:
        command = [
            sys.executable,
            repository / "examples/build_sample.py",
            folder,
            "--output-dir",
            tmp_path / "bundle",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout, tmp_path / "bundle"

    return build


def test_script_reproduces_the_bundle(build_sample, shared_data: Path, records: list[dict[str, Any]]) -> None:  # type: ignore[no-untyped-def]
    _, bundle = build_sample(shared_data / "jats/plos")
    assert read_records(tuple(sorted(bundle.glob("*.zst")))) == records
    assert (bundle / "NOTICE.md").read_bytes() == (SAMPLE_FOLDER / "NOTICE.md").read_bytes()


CC_BY = (
    "This is an open-access article distributed under the terms of the Creative Commons Attribution License, which "
    "permits unrestricted use, distribution, and reproduction in any medium, provided the original author and source "
    "are credited."
)
BY_4 = 'xlink:href="http://creativecommons.org/licenses/by/4.0/"'
BODY = (
    "<sec><title>Results</title><p>Interferon-<italic>γ</italic> rose<sup>2</sup> 10<sup>5</sup>-fold&alpha; in "
    "<italic>C. elegans</italic>(<xref>Fig 1</xref>).<fig><caption><p>A caption.</p></caption></fig></p>"
    "<p>The rate is</p><disp-formula><graphic/></disp-formula><p>where k is a constant.</p>"
    "<p>Kept.</p><p>Also kept.</p><p>Here <inline-formula><inline-graphic/></inline-formula> is lost.</p>"
    "<p>Three.</p><p>Four.</p><p>Five.</p><p>Six.</p><p>Seven.</p><p>Eight.</p></sec>"
    "<sec><title>Supporting Information</title><supplementary-material><p>Table S1</p></supplementary-material></sec>"
)


def write_article(
    folder: Path,
    number: int,
    prose: str = CC_BY,
    link: str = "",
    kind: str = "research-article",
    extra: str = "",
) -> str:
    doi = f"10.1371/journal.pone.{number:07}"
    folder.mkdir(exist_ok=True)
    (folder / f"{number}.xml").write_text(
        '<?xml version="1.0"?><!DOCTYPE article PUBLIC "-//NLM//DTD v3.0//EN" "http://example.invalid/no.dtd">'
        f'<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="{kind}"><front><journal-meta>'
        "<journal-title-group><journal-title>PLoS ONE</journal-title></journal-title-group></journal-meta>"
        f'<article-meta><article-id pub-id-type="doi">{doi}</article-id><title-group><article-title>A &amp; B'
        '</article-title></title-group><contrib-group><contrib contrib-type="author"><name><surname>Doe</surname>'
        "<given-names>Jo</given-names></name></contrib></contrib-group><pub-date><year>2012</year></pub-date>"
        f"<permissions><license {link}><license-p>{prose}</license-p></license></permissions>{extra}"
        f"<abstract><p>Never.</p></abstract></article-meta></front><body>{BODY}</body></article>",
        encoding="utf-8",
    )
    return doi


def test_article_becomes_headings_and_paragraphs_in_order(build_sample, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_article(tmp_path / "in", 1, link=BY_4)
    _, bundle = build_sample(tmp_path / "in")
    (record,) = read_records(tuple(sorted(bundle.glob("*.zst"))))
    assert record["text"].removesuffix("\n").split("\n\n") == [
        "Results",
        "Interferon-γ rose2 10^5-foldα in C. elegans(Fig 1).",
        *["Kept.", "Also kept.", "Three.", "Four.", "Five.", "Six.", "Seven.", "Eight."],
    ]
    assert record["meta"]["licence"] == "CC BY 4.0"
    assert "dropped for their formulas: 3." in (bundle / "NOTICE.md").read_text()


def test_unclear_or_other_licences_letters_and_retracted_articles_are_left_out(
    build_sample, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "in"
    kept = write_article(folder, 1)
    write_article(folder, 2, prose=CC_BY.replace("Attribution", "Attribution-NonCommercial"))
    write_article(
        folder, 3, prose=CC_BY + " Figure 2 is reproduced with permission and is not under this licence."
    )
    write_article(folder, 4, link='xlink:href="http://creativecommons.org/licenses/by-nc/4.0/"')
    write_article(folder, 5, prose="All rights reserved.")
    write_article(folder, 6, kind="letter")
    retracted = write_article(folder, 7)
    notice = f'<related-article related-article-type="retracted-article" xlink:href="info:doi/{retracted}"/>'
    write_article(folder, 8, kind="retraction", extra=notice)
    _, bundle = build_sample(folder)
    found = read_records(tuple(sorted(bundle.glob("*.zst"))))
    assert [record["meta"]["doi"] for record in found] == [kept]


def test_entities_of_a_hostile_article_are_not_expanded(build_sample, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_article(tmp_path / "in", 1)
    path = tmp_path / "in/1.xml"
    secret = tmp_path / "secret.txt"
    secret.write_text("never read this")
    hostile = path.read_text().replace(
        '"http://example.invalid/no.dtd">',
        f'"http://example.invalid/no.dtd" [<!ENTITY xxe SYSTEM "file://{secret}">]>',
    )
    path.write_text(hostile.replace("Kept.", "Kept.&xxe;"))
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        build_sample(tmp_path / "in")
    assert "xxe" in stopped.value.stderr
    assert "never read this" not in stopped.value.stdout + stopped.value.stderr
