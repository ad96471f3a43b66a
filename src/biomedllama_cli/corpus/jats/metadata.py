"""What a JATS article says of itself: identifiers, year, language, licence, retractions.

Values of `article-type` and `related-article-type`: https://pmc.ncbi.nlm.nih.gov/tagging-guidelines/
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree

from biomedllama_cli.corpus.document import Metadata
from biomedllama_cli.corpus.identifiers import normalise_doi, parse_pmid
from biomedllama_cli.corpus.jats.formulas import join_text
from biomedllama_cli.corpus.licences import Licence

_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_HREF = "{http://www.w3.org/1999/xlink}href"
_LANGUAGES = {
    "eng": "en",
    "fre": "fr",
    "fra": "fr",
    "ger": "de",
    "deu": "de",
    "spa": "es",
    "por": "pt",
    "ita": "it",
}
_PMCID = re.compile(r"(?:PMC)?(\d{1,10})(?:\.(\d{1,4}))?", re.IGNORECASE)
_YEAR = re.compile(r"\s*(1[5-9]\d\d|20\d\d)(?!\d)")
_NOT_PUBLISHED = (
    "pmc-release",
    "nihms-submitted",
    "received",
    "accepted",
    "epreprint",
    "retracted",
    "corrected",
)

_FLAGS_BY_TYPE = {
    "retraction": "retraction_notice",
    "retracted-article": "retracted",
    "correction": "correction",
    "corrected-article": "correction",
    "erratum": "correction",
    "addendum": "correction",
    "partial-retraction": "retraction_notice",
    "expression-of-concern": "expression_of_concern",
    "preprint": "preprint",
}
_FLAGS_BY_HEADING = {
    "retraction": "retraction_notice",
    "retraction notice": "retraction_notice",
    "retraction note": "retraction_notice",
    "notice of retraction": "retraction_notice",
    "retracted article": "retracted",
    "retracted": "retracted",
    "correction": "correction",
    "corrections": "correction",
    "erratum": "correction",
    "corrigendum": "correction",
    "expression of concern": "expression_of_concern",
    "preprint": "preprint",
}
_FLAGS_BY_LINK = {
    "retracted-article": "retraction_notice",
    "retraction-forward": "retracted",
    "retraction": "retracted",
    "withdrawal-forward": "retracted",
    "object-of-concern": "expression_of_concern",
    "concern-forward": "expression_of_concern",
    "expression-of-concern": "expression_of_concern",
    "corrected-article": "correction",
}
# Of a partial retraction nobody says which sentences still hold: it counts as one of the whole, here as in PubMed.
_RETRACTING_LINKS = ("retracted-article", "partial-retraction")
_FLAGS_BY_PROPERTY = {
    "pmc-prop-open-access": "open_access",
    "pmc-prop-manuscript": "author_manuscript",
    "pmc-prop-preprint": "preprint",
    "pmc-prop-is-scanned-article": "historical_ocr",
}
_END = r"[\])}:：]"
_FLAGS_BY_TITLE = (
    (
        "retracted",
        rf"[\W_]*(?:retracted|withdrawn)(?: (?:article|paper))?[\W_]*{_END}|[\W_]*retracted[.—–-] ",
    ),
    ("retraction_notice", rf"[\W_]*(?:retraction|withdrawal)(?: (?:note|notice))?(?: to)? ?{_END}"),
    ("retraction_notice", r"[\W_]*(?:retraction not(?:e|ice)|notice of retraction)\b"),
    ("expression_of_concern", r"[\W_]*(?:editorial )?expression of concern\b"),
    ("correction", r"[\W_]*(?:correction|erratum|corrigendum)(?: (?:to|for))? ?[:：]"),
)
"""How titles begin, in lower case; of two that match the first tells."""
_PREPRINT_SERVERS = ("biorxiv", "medrxiv", "arxiv", "chemrxiv", "research square", "ssrn", "preprints.org")


def read_metadata(article: etree._Element, meta: etree._Element, title: str, licence: Licence) -> Metadata:
    """Return the metadata of an article.

    Args:
        article: the root.
        meta: its `article-meta`, or an empty element.
        title: its title as text.
        licence: what it states; a conflict becomes the flag `licence_conflict`.
    """
    kind = article.get("article-type") or ""
    pmid, pmcid, version, doi = _read_identifiers(meta)
    retracts = tuple(dict.fromkeys(_iter_retracted(meta)))
    flags = _read_flags(article, meta, kind.lower(), title)
    flags |= {"retraction_notice"} if retracts else set()
    flags |= {"licence_conflict"} if licence.problem == "licence_conflict" else set()
    return Metadata(
        pmid=pmid,
        version=version,
        pmcid=pmcid,
        doi=doi,
        title=title,
        licence=licence.code,
        year=_read_year(meta),
        language=read_language(article),
        publication_types=(kind,) if kind else (),
        flags=frozenset(flags),
        retracts=retracts,
    )


def read_language(element: etree._Element) -> str | None:
    """Return an element's own language as ISO 639-1 where there is such a code.

    >>> read_language(etree.fromstring('<a xml:lang="EN-us"/>')), read_language(etree.fromstring("<a/>"))
    ('en', None)
    """
    code = re.split("[-_]", (element.get(_LANG) or "").strip().lower())[0][:20]
    return _LANGUAGES.get(code, code) or None


def _read_identifiers(meta: etree._Element) -> tuple[int | None, int | None, int, str | None]:
    """Return PMID, PMCID, version and DOI."""
    pmid = pmcid = doi = None
    version = 1
    for child in meta.iterfind("article-id"):
        kind, text = child.get("pub-id-type"), (child.text or "").strip()
        if kind == "pmid":
            pmid = pmid or parse_pmid(text)
        elif kind == "doi":
            doi = doi or normalise_doi(text)
        elif kind in ("pmc", "pmcid", "pmcid-ver") and (found := _PMCID.fullmatch(text)):
            pmcid = pmcid or int(found[1]) or None
            version = int(found[2] or 0) or version
    return pmid, pmcid, version, doi


def _read_year(meta: etree._Element) -> int | None:
    """Return the year of the first publication, in print or online."""
    dates = list(meta.iterfind("pub-date"))
    published = [
        date for date in dates if (date.get("pub-type") or date.get("date-type")) not in _NOT_PUBLISHED
    ]
    found = [
        _YEAR.match(date.findtext("year") or date.get("iso-8601-date") or date.findtext("string-date") or "")
        for date in published or dates
    ]
    return min((int(year[1]) for year in found if year), default=None)


def _read_flags(article: etree._Element, meta: etree._Element, kind: str, title: str) -> set[str]:
    flags = {_FLAGS_BY_TYPE.get(kind, "")}
    for heading in meta.iterfind("article-categories/subj-group/subject"):
        flags.add(_FLAGS_BY_HEADING.get(" ".join(join_text(heading).split()).lower(), ""))
    for link in _iter_links(meta):
        flags.add(_FLAGS_BY_LINK.get(link.get("related-article-type") or "", ""))
    for event in (*meta.iterfind("history/date"), *meta.iterfind("pub-history/event")):
        if (event.get("date-type") or event.get("event-type")) in ("retracted", "retraction", "withdrawn"):
            flags.add("retracted")
    for custom in meta.iterfind("custom-meta-group/custom-meta"):
        if (custom.findtext("meta-value") or "").strip() == "yes":
            flags.add(_FLAGS_BY_PROPERTY.get((custom.findtext("meta-name") or "").strip(), ""))
    words = {word for found in article.iterchildren(etree.PI) for word in (found.text or "").split()}
    flags.add("open_access" if "open_access" in words else "")
    flags.add("author_manuscript" if "manuscript" in words else "")
    for flag, pattern in _FLAGS_BY_TITLE:
        if re.match(pattern, title.lower()):
            flags.add(flag)
            break
    journal = article.findtext("front/journal-meta//journal-title") or ""
    flags.add("preprint" if journal.strip().lower().startswith(_PREPRINT_SERVERS) else "")
    # The notice names the article it withdraws; both name the other.
    if kind == "retraction":
        flags.discard("retracted")
    return flags - {""}


def _iter_links(meta: etree._Element) -> Iterator[etree._Element]:
    yield from meta.iterfind("related-article")
    yield from meta.iterfind("related-object")


def _iter_retracted(meta: etree._Element) -> Iterator[str]:
    """Yield what the article withdraws."""
    for link in _iter_links(meta):
        if link.get("related-article-type") not in _RETRACTING_LINKS:
            continue
        kind = (link.get("ext-link-type") or "").lower()
        for text in (link.get(_HREF) or "", join_text(link)):
            text = text.strip()
            doi = normalise_doi(text.removeprefix("info:doi/").removeprefix("info:"))
            if doi:
                yield f"doi:{doi}"
            elif kind in ("pmid", "pubmed") and (pmid := parse_pmid(text)):
                yield f"pmid:{pmid}"
            elif (found := _PMCID.fullmatch(text)) and (
                kind in ("pmc", "pmcid") or text.upper().startswith("PMC")
            ):
                yield f"pmcid:{int(found[1])}"
