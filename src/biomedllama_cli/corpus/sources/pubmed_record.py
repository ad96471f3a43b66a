"""One citation of PubMed: its title and abstract as text, and what PubMed says of it.

Element names: https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/250101/index.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lxml import etree

from biomedllama_cli.corpus.document import Dropped, Metadata, Record
from biomedllama_cli.corpus.identifiers import normalise_doi, parse_pmid
from biomedllama_cli.corpus.sources.pubmed_text import (
    UnresolvedEntityError,
    build_abstract,
    clean_title,
    flatten,
)

PARAGRAPH_BREAK = "\n\n"
"""Between title, abstract and the parts of a structured abstract."""
# fmt: off
_LANGUAGES = {
    "afr": "af", "alb": "sq", "ara": "ar", "arm": "hy", "aze": "az", "baq": "eu", "bel": "be", "bos": "bs",
    "bul": "bg", "cat": "ca", "chi": "zh", "cze": "cs", "dan": "da", "dut": "nl", "eng": "en", "est": "et",
    "fin": "fi", "fre": "fr", "geo": "ka", "ger": "de", "glg": "gl", "gre": "el", "heb": "he", "hin": "hi",
    "hrv": "hr", "hun": "hu", "ice": "is", "ind": "id", "ita": "it", "jpn": "ja", "kaz": "kk", "kor": "ko",
    "lat": "la", "lav": "lv", "lit": "lt", "mac": "mk", "may": "ms", "nor": "no", "per": "fa", "pol": "pl",
    "por": "pt", "rum": "ro", "rus": "ru", "scc": "sr", "scr": "hr", "slo": "sk", "slv": "sl", "spa": "es",
    "srp": "sr", "swe": "sv", "tha": "th", "tur": "tr", "ukr": "uk", "uzb": "uz", "vie": "vi", "wel": "cy",
}
# fmt: on
"""MARC's codes, as PubMed uses them, as ISO 639-1."""
_FLAGS_BY_TYPE = {
    "Retracted Publication": "retracted",
    "Retraction of Publication": "retraction_notice",
    "Retraction Notice": "retraction_notice",
    "Expression of Concern": "expression_of_concern",
    "Published Erratum": "correction",
    "Preprint": "preprint",
}
_FLAGS_BY_LINK = {
    "RetractionIn": "retracted",
    "PartialRetractionIn": "retracted",
    "RetractedandRepublishedIn": "retracted",
    "RetractionOf": "retraction_notice",
    "PartialRetractionOf": "retraction_notice",
    "ExpressionOfConcernIn": "expression_of_concern",
    "ExpressionOfConcernFor": "expression_of_concern",
    "ErratumFor": "correction",
}
_DOI_IN_SOURCE = re.compile(r"\bdoi:\s*(10\.\d{4,9}/\S+)", re.IGNORECASE)
_PMCID = re.compile(r"(?:PMC)?([0-9]{1,9})(?:\.\d+)?", re.IGNORECASE)
_YEAR = re.compile(r"\b(1[5-9]\d\d|20\d\d)\b")


def parse_citation(element: etree._Element, where: str) -> Record | Dropped:
    """Return what a `PubmedArticle` or `PubmedBookArticle` says.

    Args:
        element: the complete element; it is not changed.
        where: file and number, for messages.
    """
    head = element.find("MedlineCitation" if element.tag == "PubmedArticle" else "BookDocument")
    named = None if head is None else head.find("PMID")
    pmid = None if named is None else parse_pmid(named.text)
    if head is None or named is None or pmid is None:
        return Dropped("no_pmid", where, "the record has no PubMed number")
    where = f"{where} (PMID {pmid})"
    version = parse_pmid(named.get("Version", "1"))
    if version is None:
        return Dropped("bad_version", where, f"its version {named.get('Version', '')[:40]!r} is not a number")
    try:
        article = head.find("Article") if element.tag == "PubmedArticle" else head
        if article is None:
            return Dropped("no_article", where, "the record has no Article", Metadata(pmid, version))
        title = clean_title(flatten(article.find("ArticleTitle")))
        metadata = _read_metadata(element, head, article, (pmid, version, title))
        parts = build_abstract(head, article)
    except UnresolvedEntityError as error:
        problem = f"its text holds the entity {error.name}, which is not looked up"
        return Dropped("xml_entity", where, problem, Metadata(pmid, version))
    if not parts:
        return Dropped("no_abstract", where, "", metadata, title)
    return Record(PARAGRAPH_BREAK.join([title, *parts] if title else parts), None, where, metadata)


def _read_metadata(
    record: etree._Element, head: etree._Element, article: etree._Element, known: tuple[int, int, str]
) -> Metadata:
    pmid, version, title = known
    pmcid, doi = _read_identifiers(record, article)
    links = list(head.iterfind("CommentsCorrectionsList/CommentsCorrections"))
    types = [
        *_texts(article.iterfind("PublicationTypeList/PublicationType")),
        *_texts(article.iterfind("PublicationType")),
    ]
    flags = {_FLAGS_BY_TYPE[name] for name in types if name in _FLAGS_BY_TYPE}
    flags |= {_FLAGS_BY_LINK[kind] for link in links if (kind := link.get("RefType", "")) in _FLAGS_BY_LINK}
    return Metadata(
        pmid=pmid,
        version=version,
        pmcid=pmcid,
        doi=doi,
        title=title or flatten(article.find("VernacularTitle")),
        year=_read_year(article),
        language=_read_language(article),
        publication_types=tuple(types),
        mesh=tuple(_texts(head.iterfind("MeshHeadingList/MeshHeading/DescriptorName"))),
        flags=frozenset(flags),
        retracts=tuple(dict.fromkeys(_iter_retracted(links))),
    )


def _texts(elements: Iterable[etree._Element]) -> list[str]:
    return [text for text in map(flatten, elements) if text]


def _read_identifiers(record: etree._Element, article: etree._Element) -> tuple[int | None, str | None]:
    """Return PMCID and DOI: of the record itself, not of the papers it cites."""
    pmcid = doi = None
    lists = ("PubmedData/ArticleIdList/ArticleId", "PubmedBookData/ArticleIdList/ArticleId")
    own = [child for path in lists for child in record.iterfind(path)]
    for child in [*own, *article.iterfind("ArticleIdList/ArticleId")]:
        text, kind = (child.text or "").strip(), child.get("IdType")
        if kind == "pmc" and pmcid is None and (found := _PMCID.fullmatch(text)):
            pmcid = int(found[1]) or None
        elif kind == "doi" and doi is None:
            doi = normalise_doi(text)
    if doi is None:
        for child in article.iterfind("ELocationID"):
            if child.get("EIdType") == "doi" and child.get("ValidYN", "Y") == "Y":
                doi = doi or normalise_doi(child.text or "")
    return pmcid, doi


def _read_year(article: etree._Element) -> int | None:
    for path in (
        "Journal/JournalIssue/PubDate/Year",
        "Journal/JournalIssue/PubDate/MedlineDate",
        "ArticleDate/Year",
        "ContributionDate/Year",
        "Book/PubDate/Year",
        "Book/PubDate/MedlineDate",
    ):
        found = _YEAR.search(article.findtext(path) or "")
        if found:
            return int(found[1])
    return None


def _read_language(article: etree._Element) -> str | None:
    """Return English where it is one of several."""
    codes = [(child.text or "").strip().lower() for child in article.iterfind("Language")]
    codes = [code for code in codes if code not in ("", "und", "mul")]
    if "eng" in codes:
        return "en"
    return _LANGUAGES.get(codes[0], codes[0][:20]) if codes else None


def _iter_retracted(links: list[etree._Element]) -> Iterator[str]:
    for link in links:
        if _FLAGS_BY_LINK.get(link.get("RefType", "")) != "retraction_notice":
            continue
        pmid = parse_pmid(link.findtext("PMID"))
        if pmid is not None:
            yield f"pmid:{pmid}"
        found = _DOI_IN_SOURCE.search(link.findtext("RefSource") or "")
        if found:
            yield f"doi:{found[1].rstrip('.,;)').lower()}"
