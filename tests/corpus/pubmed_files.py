"""PubMed files made up for tests: a baseline, update files with revisions, withdrawals and retractions, sidecars."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

DOCTYPE = (
    '<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2026//EN" '
    '"https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_260101.dtd">'
)
HEAD = f'<?xml version="1.0" encoding="utf-8"?>\n{DOCTYPE}\n<PubmedArticleSet>\n'
TAIL = "</PubmedArticleSet>\n"


@dataclass(frozen=True)
class Citation:
    """What a made-up record says; `abstract` and `title` are XML, so that they may hold markup.

    Attributes:
        abstract: text, or (label, text) pairs, or None for no abstract.
        links: (RefType, PMID, RefSource) triples of CommentsCorrections.
        other: XML put behind the Article, such as an OtherAbstract.
        article: XML put into the Article, behind the abstract.
        cites: (IdType, text) pairs of a cited paper, which are not the record's own.
    """

    pmid: int | str
    title: str = "A made-up title."
    abstract: str | tuple[tuple[str, str], ...] | None = "A made-up abstract."
    version: int | str = 1
    pmcid: str | None = None
    doi: str | None = None
    languages: tuple[str, ...] = ("eng",)
    date: str = "<Year>2021</Year>"
    types: tuple[str, ...] = ("Journal Article",)
    mesh: tuple[str, ...] = ()
    links: tuple[tuple[str, int | None, str], ...] = ()
    other: str = ""
    article: str = ""
    cites: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """What it becomes, when it holds no markup and no other abstract."""
        parts = (
            [self.abstract]
            if isinstance(self.abstract, str)
            else [f"{a}: {b}" for a, b in self.abstract or ()]
        )
        return "\n\n".join([self.title, *parts])

    def to_xml(self) -> str:
        ids = [("pubmed", str(self.pmid))]
        ids += [("pmc", self.pmcid)] if self.pmcid else []
        ids += [("doi", self.doi)] if self.doi else []
        return (
            f'<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM">'
            f"<PMID Version={quoteattr(str(self.version))}>{self.pmid}</PMID>"
            f'<Article PubModel="Print"><Journal><JournalIssue CitedMedium="Print"><PubDate>{self.date}</PubDate>'
            f"</JournalIssue><Title>Journal of Tests</Title></Journal><ArticleTitle>{self.title}</ArticleTitle>"
            f"{self._abstract_xml()}{self.article}{_repeat('Language', self.languages)}"
            f"<PublicationTypeList>{_repeat('PublicationType', self.types)}</PublicationTypeList></Article>"
            f"<CommentsCorrectionsList>{''.join(map(_link_xml, self.links))}</CommentsCorrectionsList>"
            f"<MeshHeadingList>{''.join(map(_mesh_xml, self.mesh))}</MeshHeadingList>{self.other}"
            f"</MedlineCitation><PubmedData><ArticleIdList>{_ids_xml(ids)}</ArticleIdList>"
            f"<ReferenceList><Reference><Citation>A cited paper.</Citation><ArticleIdList>{_ids_xml(self.cites)}"
            f"</ArticleIdList></Reference></ReferenceList></PubmedData></PubmedArticle>\n"
        )

    def _abstract_xml(self) -> str:
        if self.abstract is None:
            return ""
        if isinstance(self.abstract, str):
            parts = f"<AbstractText>{self.abstract}</AbstractText>"
        else:
            parts = "".join(
                f"<AbstractText Label={quoteattr(label)}>{text}</AbstractText>"
                for label, text in self.abstract
            )
        return f"<Abstract>{parts}<CopyrightInformation>Copyright 2021 A Publisher.</CopyrightInformation></Abstract>"


def _repeat(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _ids_xml(ids: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<ArticleId IdType="{kind}">{escape(text)}</ArticleId>' for kind, text in ids)


def _mesh_xml(name: str) -> str:
    return (
        f'<MeshHeading><DescriptorName UI="D000001" MajorTopicYN="N">{escape(name)}</DescriptorName>'
        f'<QualifierName UI="Q000001" MajorTopicYN="N">methods</QualifierName></MeshHeading>'
    )


def _link_xml(link: tuple[str, int | None, str]) -> str:
    kind, pmid, source = link
    number = "" if pmid is None else f'<PMID Version="1">{pmid}</PMID>'
    return (
        f'<CommentsCorrections RefType="{kind}"><RefSource>{escape(source)}</RefSource>{number}'
        "</CommentsCorrections>"
    )


def encode_set(citations: Iterable[Citation | str], deleted: Iterable[int] = ()) -> bytes:
    """Return a PubmedArticleSet; a citation may be XML already."""
    records = "".join(one if isinstance(one, str) else one.to_xml() for one in citations)
    withdrawn = "".join(f'<PMID Version="1">{pmid}</PMID>\n' for pmid in deleted)
    tail = f"<DeleteCitation>\n{withdrawn}</DeleteCitation>\n" if withdrawn else ""
    return (HEAD + records + tail + TAIL).encode()


def write_set(
    path: Path, citations: Iterable[Citation | str], deleted: Iterable[int] = (), *, sidecar: bool = True
) -> Path:
    """Write a file as its ending says, gzipped or not, with its MD5 beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = encode_set(citations, deleted)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    if sidecar:
        write_sidecar(path)
    return path


def write_sidecar(path: Path, md5: str | None = None) -> Path:
    """Write `FILE.md5` the way PubMed's server does."""
    sidecar = path.with_name(f"{path.name}.md5")
    sidecar.write_text(f"MD5({path.name})= {md5 or hashlib.md5(path.read_bytes()).hexdigest()}\n")
    return sidecar


def write_release(folder: Path) -> list[Citation]:
    """Write a baseline of two files and two update files, and return the citations to be trained on.

    1001 to 1006 are in the baseline. The updates revise 1002 and give 1003 a second version, withdraw 1004, and
    retract 1005 by the notice 1007, which comes before 1005's own mark; 1006 has no abstract; 1008 is new.
    """
    base = {
        pmid: Citation(
            pmid,
            title=f"Title {pmid}.",
            abstract=f"Abstract {pmid} on serum ferritin.",
            doi=f"10.1000/{pmid}",
        )
        for pmid in range(1001, 1006)
    }
    revised = replace(base[1002], abstract="Abstract 1002, revised, on serum ferritin.", pmcid="PMC5001002")
    second = replace(base[1003], version=2, abstract="Abstract 1003, second version, on serum ferritin.")
    notice = Citation(
        1007,
        title="Retraction: Title 1005.",
        abstract="The authors retract this article.",
        types=("Retraction of Publication",),
        links=(("RetractionOf", 1005, "J Tests. 2021;1:5. doi: 10.1000/1005"),),
    )
    retracted = replace(
        base[1005],
        types=("Journal Article", "Retracted Publication"),
        links=(("RetractionIn", 1007, "J Tests. 2022;2:7"),),
    )
    new = Citation(1008, title="Title 1008.", abstract="Abstract 1008 on serum ferritin.")
    without = Citation(1006, title="Title 1006.", abstract=None)
    write_set(folder / "baseline" / "pubmed26n0001.xml.gz", [base[1001], base[1002], base[1003]])
    write_set(folder / "baseline" / "pubmed26n0002.xml.gz", [base[1004], base[1005], without])
    write_set(folder / "updatefiles" / "pubmed26n0003.xml.gz", [revised, notice, new], deleted=[1004])
    write_set(folder / "updatefiles" / "pubmed26n0004.xml.gz", [second, retracted])
    return [base[1001], revised, second, new]
