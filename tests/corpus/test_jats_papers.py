"""Ninety-five real papers: every paragraph is there, in order, checked against the XML by other means."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from biomedllama_cli.corpus.document import Metadata, Record
from biomedllama_cli.corpus.jats.article import parse_article
from biomedllama_cli.settings.prepare import ArticleSettings

CUT = "\0"
# What is written in another way, or behind the paragraph: the text is compared between these.
OPAQUE = {"inline-formula", "disp-formula", "fig", "table-wrap", "fn", "boxed-text", "supplementary-material"}
FAR = 4000
"""Characters between two pieces of a paragraph at most: longer than any formula."""


@pytest.fixture(scope="module")
def papers(shared_data: Path) -> dict[str, bytes]:
    found = [*(shared_data / "jats").glob("*.nxml"), *(shared_data / "jats" / "plos").glob("*.xml")]
    assert len(found) == 95
    return {path.name: path.read_bytes() for path in sorted(found)}


@pytest.fixture(scope="module")
def records(papers: dict[str, bytes]) -> dict[str, Record]:
    read = {name: parse_article(data, name, ArticleSettings()) for name, data in papers.items()}
    assert all(isinstance(record, Record) for record in read.values())
    return {name: record for name, record in read.items() if isinstance(record, Record)}


@pytest.fixture(scope="module")
def metadata(records: dict[str, Record]) -> dict[str, Metadata]:
    return {name: record.metadata for name, record in records.items() if record.metadata}


def flatten(element: ElementTree.Element) -> str:
    """Return the text with CUT for citation markers and for what is opaque."""
    parts = [element.text or ""]
    for child in element:
        cut = child.tag in OPAQUE or child.get("ref-type") == "bibr" or child.tag == "label"
        parts += (CUT if cut else flatten(child), child.tail or "")
    return "".join(parts)


def iter_paragraphs(element: ElementTree.Element, inside: bool = False) -> Iterator[ElementTree.Element]:
    """Yield paragraphs in document order: not those in others, save for floats in them."""
    for child in element:
        if child.tag == "ref-list":
            continue
        if child.tag == "p" and not inside:
            yield child
        yield from iter_paragraphs(child, (inside or child.tag == "p") and child.tag not in OPAQUE)


def reduce(text: str) -> str:
    """Return letters and digits alone: white space, brackets and the mark of a power go."""
    return re.sub(r"[\W_]+", "", text)


def split_pieces(paragraph: ElementTree.Element) -> list[str]:
    text = flatten(paragraph)
    # An open bracket before a marker and what closes it behind go with the marker: (see [2] for a review).
    text = re.sub(r"[\[(][^\[\]()\0]{0,30}(?=\0)", "", text)
    text = re.sub(r"(?<=\0)[^\[\]()\0]{0,30}[\])]", "", text)
    text = re.sub(r"(?<=\0)[\s,;]*(?:and|to)\s*(?=\0)", "", text)  # [1] and [2]
    return [piece for part in text.split(CUT) if (piece := reduce(part))]


def compare(text: str, data: bytes) -> tuple[int, int]:
    """Return paragraphs and characters of the body that are in the text, in order; fail where one is not."""
    text, place, paragraphs, characters = reduce(text), 0, 0, 0
    body = ElementTree.fromstring(data).find("body")
    assert body is not None
    for paragraph in iter_paragraphs(body):
        pieces = split_pieces(paragraph)
        for number, piece in enumerate(pieces):
            found = text.find(piece, place)
            assert found >= 0, piece
            assert number == 0 or found - place < FAR, piece
            place = found + len(piece)
            characters += len(piece)
        paragraphs += bool(pieces)
    return paragraphs, characters


def test_every_paragraph_is_there_in_order(papers: dict[str, bytes], records: dict[str, Record]) -> None:
    found = [compare(records[name].text, data) for name, data in papers.items()]
    assert sum(paragraphs for paragraphs, _ in found) > 5000
    assert sum(characters for _, characters in found) > 2_900_000


def test_the_comparison_notices_a_lost_and_a_moved_paragraph(
    papers: dict[str, bytes], records: dict[str, Record]
) -> None:
    text, data = records["mds526.nxml"].text, papers["mds526.nxml"]
    compare(text, data)
    blocks = text.split("\n\n")
    long = [number for number, block in enumerate(blocks) if len(block) > 500][3:5]
    lost = [block for number, block in enumerate(blocks) if number != long[0]]
    blocks[long[0]], blocks[long[1]] = blocks[long[1]], blocks[long[0]]
    for changed in (lost, blocks):
        with pytest.raises(AssertionError):
            compare("\n\n".join(changed), data)


def test_titles_of_sections_and_cells_of_tables_are_there(
    papers: dict[str, bytes], records: dict[str, Record]
) -> None:
    cells = 0
    for name, data in papers.items():
        lines = {reduce(line) for line in records[name].text.splitlines()}
        root = ElementTree.fromstring(data)
        text = reduce(records[name].text)
        for section in root.findall("body//sec"):
            title = section.find("title")
            if title is not None and CUT not in flatten(title) and section.find("label") is None:
                assert reduce(flatten(title)) in lines, (name, flatten(title))
        for cell in root.findall("body//td"):
            if CUT not in flatten(cell):
                assert reduce(flatten(cell)) in text
                cells += 1
    assert cells > 10_000


def test_no_remains_of_citations(records: dict[str, Record]) -> None:
    left = re.compile(r"\[[\s,;–-]*\]|\][,–]\[|[\x00-\x08]")
    for name, record in records.items():
        prose = [line for line in record.text.splitlines() if " | " not in line]
        found = left.search("\n".join(prose))
        assert found is None, (name, found)


def test_no_control_characters_and_single_spaces(records: dict[str, Record]) -> None:
    for record in records.values():
        assert not re.search(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]|  |\n\n\n| \n|\n ", record.text)
        assert record.text == record.text.strip()


def test_the_five_samples_state_what_is_known_of_them(metadata: dict[str, Metadata]) -> None:
    assert {name: found.licence for name, found in metadata.items() if name.endswith(".nxml")} == {
        "1471-2180-11-174.nxml": "CC BY",
        "pntd.0002065.nxml": "CC BY",
        "pone.0000217.nxml": "CC BY",
        "mds526.nxml": "CC BY-NC",
        "ehp-116-1694.nxml": "public domain",
    }


def test_plos_papers_are_cc_by_or_cc0_save_the_one_under_terms_of_the_who(
    metadata: dict[str, Metadata],
) -> None:
    plos = {name: found for name, found in metadata.items() if name.startswith("journal.")}
    others = {name: found.licence for name, found in plos.items() if found.licence not in ("CC BY", "CC0")}
    # Its licence names no licence and forbids use for the promotion of commercial products.
    assert others == {"journal.pmed.1001080.xml": None}
    assert sorted(name for name, found in plos.items() if found.licence == "CC0") == [
        "journal.pone.0068090.xml",
        "journal.pone.0081648.xml",
        "journal.pone.0160653.xml",
    ]
    assert not any("licence_conflict" in found.flags for found in plos.values())


def test_retraction_notices_and_corrections_are_recognised(metadata: dict[str, Metadata]) -> None:
    flagged = {name: set(found.flags - {"open_access"}) for name, found in metadata.items()}
    assert {name: flags for name, flags in flagged.items() if flags} == {
        "journal.pcbi.0030158.xml": {"retraction_notice"},
        "journal.ppat.1005207.xml": {"retraction_notice"},
        "journal.pone.0097541.xml": {"correction"},
        "journal.pone.0108198.xml": {"correction"},
    }
    assert metadata["journal.pcbi.0030158.xml"].retracts == ("doi:10.1371/journal.pcbi.0030051",)
    assert metadata["journal.ppat.1005207.xml"].retracts == ("doi:10.1371/journal.ppat.1003435",)


def test_all_papers_have_a_doi_a_title_and_a_year(metadata: dict[str, Metadata]) -> None:
    for found in metadata.values():
        assert found.doi is not None
        assert found.title
        assert found.year is not None
        assert 2004 <= found.year <= 2016
