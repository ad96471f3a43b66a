"""JATS to text: ours against pubmed_parser, on the same papers in the same run.

Two questions: how many of the words of an article's XML are in the text (recall, every word as often as it stands
there), and how fast. pubmed_parser is given all its functions for text (metadata with abstract, paragraphs, captions,
tables) and its time is also given without captions and tables; a function that fails on a file counts as nothing
found there.

    python benchmarks/jats_to_text.py --data ../shared/data/jats

Needs `pip install -e ".[benchmarks]"`; one core, under a minute.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pubmed_parser
from unidecode import unidecode

from biomedllama_cli.corpus.document import Record
from biomedllama_cli.corpus.jats.article import parse_article
from biomedllama_cli.settings.prepare import ArticleSettings
from report import write_result

SPEED_WANTED = 1.5
_NOT_WORDS = ("inline-formula", "disp-formula", "ref-list", "label", "permissions", "object-id", "alt-text")
PARTS = {
    "paragraphs of the body": ".//body//p",
    "abstracts": ".//article-meta/abstract",
    "captions": ".//caption",
    "cells of tables": ".//td",
    "headings": ".//body//sec/title",
}


def read_ours(path: Path) -> str:
    """Return the text of a file, read from disk."""
    record = parse_article(path.read_bytes(), path.name, ArticleSettings())
    return record.text if isinstance(record, Record) else ""


def call_peer(function: Callable[..., Any], path: Path, **options: Any) -> Any:
    """Return what a function of the peer finds, or nothing where it fails."""
    try:
        return function(str(path), **options)
    except (AttributeError, KeyError, TypeError, UnboundLocalError):
        return None


def read_peer_body(path: Path) -> list[str]:
    """Return title, abstract, headings and paragraphs by pubmed_parser."""
    meta = call_peer(pubmed_parser.parse_pubmed_xml, path) or {}
    found = [meta.get("full_title", ""), meta.get("abstract", ""), meta.get("coi_statement", "")]
    section = None
    for paragraph in call_peer(pubmed_parser.parse_pubmed_paragraph, path, all_paragraph=True) or []:
        if paragraph["section"] != section:  # it repeats the heading for each paragraph
            section = paragraph["section"]
            found.append(section)
        found.append(paragraph["text"])
    return found


def read_peer(path: Path) -> str:
    """Return everything pubmed_parser finds."""
    found = read_peer_body(path)
    for figure in call_peer(pubmed_parser.parse_pubmed_caption, path) or []:
        found += [figure["fig_label"] or "", figure["fig_caption"] or ""]
    for table in call_peer(pubmed_parser.parse_pubmed_table, path, return_xml=False) or []:
        found += [table["label"], table["caption"], *table["table_columns"]]
        found += [cell for row in table["table_values"] for cell in row]
    return "\n".join(found)


def iter_text(element: ElementTree.Element) -> Iterable[str]:
    """Yield the text of an element without formulas (both write them in another way) and citation markers."""
    yield element.text or ""
    for child in element:
        inside = child.tag not in _NOT_WORDS and child.get("ref-type") != "bibr"
        # A block parts words, inline markup does not.
        block = child.tag in (
            "p",
            "title",
            "td",
            "th",
            "sec",
            "list-item",
            "break",
            "caption",
            "table-wrap",
            "fig",
        )
        yield " " if block or not inside else ""
        if inside:
            yield from iter_text(child)
        yield " " if block else ""
        yield child.tail or ""


def count_words(text: str) -> Counter[str]:
    """Return how often each word stands in a text, in ASCII as the peer writes tables; 10^5 as 105."""
    return Counter(re.findall(r"[a-z0-9]+", unidecode(text.replace("^", "")).lower()))


def measure_recall(texts: dict[Path, str]) -> dict[str, float]:
    """Return the share of the words of each part of the XML that the texts hold."""
    recalls = {}
    for name, xpath in PARTS.items():
        wanted = found = 0
        for path, text in texts.items():
            root = ElementTree.parse(path).getroot()
            reference = count_words(
                " ".join("".join(iter_text(element)) for element in iter_outermost(root, xpath))
            )
            wanted += reference.total()
            found += (reference & count_words(text)).total()
        recalls[name] = found / wanted
    return recalls


def iter_outermost(root: ElementTree.Element, xpath: str) -> Iterable[ElementTree.Element]:
    """Yield what a path finds, not what is inside another find."""
    inside: set[ElementTree.Element] = set()
    for element in root.iterfind(xpath):
        if element not in inside:
            inside.update(element.iter())
            yield element


def measure_seconds(read: Callable[[Path], object], paths: list[Path]) -> float:
    """Return the processor time to read all files once."""
    start = time.process_time()
    for path in paths:
        read(path)
    return time.process_time() - start


def main() -> None:
    """Measure both, write the dated result; exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with .nxml and .xml files")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; each times all readers in turn")
    parser.add_argument("--no-result", action="store_true", help="write no file into benchmarks/results")
    options = parser.parse_args()
    paths = sorted([*options.data.rglob("*.nxml"), *options.data.rglob("*.xml")])
    size = sum(path.stat().st_size for path in paths) / 1e6

    readers: dict[str, Callable[[Path], object]] = {
        "ours": read_ours,
        "pubmed_parser, all": read_peer,
        "pubmed_parser, without captions and tables": read_peer_body,
    }
    rounds = [
        {name: measure_seconds(read, paths) for name, read in readers.items()} for _ in range(options.rounds)
    ]
    seconds = {name: statistics.median(one[name] for one in rounds) for name in readers}
    ratio = {name: statistics.median(one[name] / one["ours"] for one in rounds) for name in readers}
    ours, peer = ({path: read(path) for path in paths} for read in (read_ours, read_peer))
    recalls = {"ours": measure_recall(ours), "pubmed_parser": measure_recall(peer)}

    lines = [
        f"{len(paths)} papers, {size:.1f} MB of XML, one process, median of {options.rounds} rounds; "
        f"pubmed_parser {version('pubmed-parser')}, lxml {version('lxml')}.",
        "",
    ]
    lines += ["| reader | seconds | MB/s | time / ours |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {seconds[name]:.2f} | {size / seconds[name]:.1f} | {ratio[name]:.2f} |"
        for name in readers
    ]
    lines += ["", "| share of the words of | ours | pubmed_parser |", "|---|---|---|"]
    lines += [
        f"| {part} | {recalls['ours'][part]:.4f} | {recalls['pubmed_parser'][part]:.4f} |" for part in PARTS
    ]
    speed_met = ratio["pubmed_parser, all"] >= SPEED_WANTED
    recall_met = all(recalls["ours"][part] >= recalls["pubmed_parser"][part] for part in PARTS)
    verdicts = {True: "met", False: "missed"}
    lines += [
        "",
        f"Wanted: at least {SPEED_WANTED} times the speed of pubmed_parser ({verdicts[speed_met]}) and no lower recall "
        f"({verdicts[recall_met]}). Words of formulas, labels and citation markers are not counted.",
    ]
    facts = {"rounds": rounds, "ratio": ratio, "recall": recalls, "papers": len(paths), "megabytes": size}
    if options.no_result:
        print("\n".join(lines))
    else:
        write_result("jats_to_text", lines, facts)
    raise SystemExit(0 if speed_met and recall_met else 1)


if __name__ == "__main__":
    main()
