"""PubMed's XML: the yearly baseline, the daily update files, and what efetch returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from lxml import etree

from biomedllama_cli.corpus.document import Deletion, Dropped, Item
from biomedllama_cli.corpus.identifiers import parse_pmid
from biomedllama_cli.corpus.sources.files import InputFile, find_inputs
from biomedllama_cli.corpus.sources.pubmed_record import parse_citation
from biomedllama_cli.corpus.sources.sidecars import find_md5_problem
from biomedllama_cli.corpus.sources.streams import BrokenStreamError, iter_blocks
from biomedllama_cli.corpus.sources.xml_stream import iter_elements
from biomedllama_cli.errors import DataError

_ROOT = "PubmedArticleSet"
_KNOWN_ROOTS = {"article": "--source pmc reads articles"}
_TAGS = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation")
_RELEASED = re.compile(r"pubmed(\d\d)n(\d+)\.xml(?:\.gz)?")


@dataclass(frozen=True)
class PubmedReader:
    """Read citations with their abstracts, and the withdrawal of citations."""

    suffixes: ClassVar[tuple[str, ...]] = (".xml", ".xml.gz")

    def list_inputs(self, patterns: tuple[str, ...]) -> list[InputFile]:
        """Return PubMed's own files by year and number, whatever their folders, then others by name.

        In that order a later record of a citation replaces an earlier one.

        Args:
            patterns: files, folders or globs.

        Raises:
            DataError: a pattern names nothing readable.
        """
        return sorted(find_inputs(patterns, self.suffixes), key=_rank)

    def iter_documents(self, file: InputFile, report_position: Callable[[int], None]) -> Iterator[Item]:
        """Yield the citations of a file and, from update files, what is withdrawn.

        A file that its MD5 sidecar contradicts is not read: it is dropped as one, `wrong_md5`.

        Args:
            file: what to read.
            report_position: told the bytes of the file consumed so far.

        Raises:
            DataError: the file cannot be opened.
        """
        try:
            problem = find_md5_problem(file.path)
            if problem is not None:
                yield Dropped("wrong_md5", file.label, problem)
            else:
                yield from _iter_file(file, report_position)
        except OSError as error:
            raise DataError(f"Input {file.label} cannot be read: {error.strerror or error}.") from None

    def identify(self) -> dict[str, Any]:
        """Return the settings that change what is read: there are none."""
        return {}


def _rank(file: InputFile) -> tuple[int, int, int, str, str]:
    name = file.path.name
    released = _RELEASED.fullmatch(name)
    if released:
        return 0, int(released[1]), int(released[2]), name, file.label
    return 1, 0, 0, name, file.label


def _iter_file(file: InputFile, report_position: Callable[[int], None]) -> Iterator[Item]:
    number = 0
    try:
        blocks = iter_blocks(file.path, report_position)
        for element in iter_elements(blocks, _TAGS, _ROOT, known_roots=_KNOWN_ROOTS):
            if element.tag == "DeleteCitation":
                yield from _iter_deletions(element, file.label)
            else:
                number += 1
                yield parse_citation(element, f"{file.label}, record {number}")
    except BrokenStreamError as error:
        where = f"{file.label}, record {number + 1}"
        yield Dropped(error.reason, where, f"{error.problem}; the rest of the file is lost")


def _iter_deletions(element: etree._Element, label: str) -> Iterator[Item]:
    for number, child in enumerate(element.iterchildren("PMID"), start=1):
        where = f"{label}, DeleteCitation, PMID {number}"
        pmid = parse_pmid(child.text)
        if pmid is None:
            yield Dropped("no_pmid", where, f"{(child.text or '')[:40]!r} is not a PubMed number")
        else:
            yield Deletion(pmid, where)
