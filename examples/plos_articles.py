"""Read PLOS articles in JATS: licence, attribution, and the body as plain text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from html.entities import html5
from pathlib import Path

from lxml import etree

LARGEST_FORMULA_SHARE = 0.25  # of an article's paragraphs; more mathematics than that leaves too many holes

# Not every file spells out its journal; its DOI, 10.1371/journal.CODE.NUMBER, always names it.
JOURNALS = {
    "pbio": "PLOS Biology",
    "pcbi": "PLOS Computational Biology",
    "pgen": "PLOS Genetics",
    "pmed": "PLOS Medicine",
    "pntd": "PLOS Neglected Tropical Diseases",
    "pone": "PLOS ONE",
    "ppat": "PLOS Pathogens",
}
XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
DROPPED = {
    "fig",
    "fig-group",
    "table-wrap",
    "table-wrap-group",
    "supplementary-material",
    "media",
    "fn",
    "label",
}
FORMULAS = {"inline-formula", "disp-formula", "inline-graphic", "graphic", "chem-struct-wrap"}
BLOCKS = {"list", "list-item", "disp-quote", "boxed-text", "p", "title", "break"}

CC_BY_PROSE = re.compile(
    r"This is an open[- ]access article distributed under the terms of the Creative Commons Attribution "
    r"License, which permits unrestricted use, distribution, and reproduction in any medium, provided the "
    r"original (author and source are credited|work is properly cited)\.?",
    re.IGNORECASE,
)
CC0_PROSE = re.compile(
    r"This is an open[- ]access article, free of all copyright, and may be freely reproduced, distributed, "
    r"transmitted, modified, built upon, or otherwise used by anyone for any lawful purpose\. The work is "
    r"made available under the Creative Commons CC0 public domain dedication\.?",
    re.IGNORECASE,
)
CC_LINK = re.compile(r"https?://creativecommons\.org/(licenses/by/(\d\.\d)|publicdomain/zero/1\.0)/?")


@dataclass(frozen=True)
class Article:
    """One article: its body as plain text and what its attribution needs."""

    doi: str
    title: str
    authors: tuple[str, ...]
    journal: str
    year: str
    copyright_holder: str
    licence: str
    licence_url: str
    text: str
    formula_paragraphs: int

    @property
    def size(self) -> int:
        """Bytes of UTF-8 text."""
        return len(self.text.encode())


def parse_article(path: Path) -> etree._Element:
    """Parse one file with no DTD, no network and no entity expansion."""
    parser = etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    return etree.parse(str(path), parser).getroot()


def read_line(node: etree._Element | None) -> str:
    """Return all text below a node on one line; nothing where there is no node."""
    return "" if node is None else " ".join("".join(iter_inline(node)).split())


def read_licence(root: etree._Element) -> tuple[str, str] | None:
    """Return name and address of an article's licence, or None where it is unclear or another one.

    The prose must be one of the two known sentences and nothing else, and every link must agree with it.
    """
    licences = root.findall("./front/article-meta/permissions/license")
    if len(licences) != 1:
        return None
    node = licences[0]
    prose = read_line(node)
    links = {a.get(XLINK_HREF) for a in node.iter() if a.get(XLINK_HREF)}
    matches = [CC_LINK.fullmatch(link) for link in sorted(links)]
    if not all(matches) or len(matches) > 1:
        return None
    link = matches[0] if matches else None
    if CC_BY_PROSE.fullmatch(prose) and (link is None or link[2]):
        version = link[2] if link else None
        name = f"CC BY {version}" if version else "CC BY (version not stated)"
        return name, f"https://creativecommons.org/licenses/by/{version or '4.0'}/"
    if CC0_PROSE.fullmatch(prose) and (link is None or not link[2]):
        return "CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"
    return None


def iter_inline(node: etree._Element) -> Iterator[str]:
    """Yield the text of a node in reading order; a line break stands where a block begins or ends."""
    if node.text:
        yield re.sub(r"\s+", " ", node.text)
    for child in node:
        if isinstance(child, etree._Entity):
            yield html5[f"{child.name};"]  # an unknown name stops the build
        elif child.tag not in DROPPED and child.tag not in FORMULAS:
            around = "\n" if child.tag in BLOCKS else ""
            yield around
            inner = "".join(iter_inline(child))
            # 10<sup>5</sup> must not become 105.
            yield f"^{inner}" if child.tag == "sup" and _follows_digit(child) else inner
            yield around
        if child.tail:
            yield re.sub(r"\s+", " ", child.tail)


def _follows_digit(child: etree._Element) -> bool:
    previous = child.getprevious()
    before = (child.getparent().text if previous is None else previous.tail) or ""
    return before[-1:].isdigit()


def _has_formula(node: etree._Element) -> bool:
    return any(
        element.tag in FORMULAS and not any(a.tag in DROPPED for a in element.iterancestors())
        for element in node.iter(*FORMULAS)
    )


class BodyReader:
    """Reads a body into headings and paragraphs; paragraphs with formulas are dropped whole and counted."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self.paragraphs = 0
        self.formula_paragraphs = 0

    def read(self, section: etree._Element) -> list[str]:
        """Return the blocks of a section (or body), its heading first, or nothing if no paragraph is left."""
        heading: list[str] = []
        blocks: list[list[str]] = []
        after_formula = after_paragraph = False
        for child in section:
            if child.tag == "title":
                heading = [read_line(child)]
            elif child.tag == "sec" and not _is_supporting_information(child):
                blocks.append(self.read(child))
                after_formula = after_paragraph = False
            elif child.tag in BLOCKS | FORMULAS:
                lines = [] if child.tag in FORMULAS else read_lines(child)
                formula = _has_formula(child)
                dropped = formula or (after_formula and bool(lines) and lines[0][0].islower())
                self.paragraphs += bool(lines)
                if formula and not lines and after_paragraph:
                    # A formula on a line of its own ends the sentence of the paragraph before it,
                    # and "where x is" goes on after it.
                    blocks.pop()
                self.formula_paragraphs += dropped and bool(lines or after_paragraph)
                after_paragraph = bool(lines) and not dropped
                after_formula = formula
                if after_paragraph:
                    blocks.append(lines)
        lines = [line for block in blocks for line in block]
        return [line for line in heading + lines if line] if lines else []


def _is_supporting_information(section: etree._Element) -> bool:
    title = read_line(section.find("title")).lower()
    return section.get("sec-type") == "supplementary-material" or title == "supporting information"


def read_lines(node: etree._Element) -> list[str]:
    """Return the text of a paragraph, list or quotation: one line per paragraph in it."""
    lines = (tidy(line) for line in "".join(iter_inline(node)).split("\n"))
    return [line for line in lines if line]


def tidy(line: str) -> str:
    """Return a line with single spaces, none inside brackets, and no comma left over from an empty reference.

    >>> tidy("as in ( x) [24], , freezing  or")
    'as in (x) [24], freezing or'
    """
    line = " ".join(line.replace("\u00ad", "-").split())  # soft hyphens: typed for hyphens in these files
    line = re.sub(r"(?<=[(\[]) | (?=[)\]])", "", line)
    return re.sub(r"(, )+,|,,", ",", line)


def read_article(root: etree._Element, licence: tuple[str, str]) -> Article | None:
    """Return an article, or None if too much of it is mathematics."""
    reader = BodyReader()
    blocks = reader.read(root.find("body"))
    if reader.formula_paragraphs > LARGEST_FORMULA_SHARE * reader.paragraphs:
        return None
    meta, doi = root.find("./front/article-meta"), read_doi(root)
    years = sorted(year.text for year in meta.findall("./pub-date/year"))
    return Article(
        doi=doi,
        title=read_line(meta.find("./title-group/article-title")),
        authors=tuple(iter_authors(meta)),
        journal=JOURNALS[doi.split(".")[2]],
        year=years[0],
        copyright_holder=read_line(meta.find("./permissions/copyright-holder")),
        licence=licence[0],
        licence_url=licence[1],
        text=unicodedata.normalize("NFC", "\n\n".join(blocks)) + "\n",
        formula_paragraphs=reader.formula_paragraphs,
    )


def read_doi(root: etree._Element) -> str:
    """Return the article's DOI."""
    return root.findtext("./front/article-meta/article-id[@pub-id-type='doi']").strip()


def iter_authors(meta: etree._Element) -> Iterator[str]:
    """Yield the authors as printed: given names and surname, or the name of a group."""
    for contributor in meta.findall("./contrib-group/contrib[@contrib-type='author']"):
        name, group = contributor.find("name"), contributor.find("collab")
        if name is not None:
            yield f"{read_line(name.find('given-names'))} {read_line(name.find('surname'))}".strip()
        elif group is not None:
            yield re.split(r"\s*[\n;]", "".join(group.xpath("./text()")).strip() or read_line(group))[0]
