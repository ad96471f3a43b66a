"""What an article's metadata JSON says, and whether the article is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from biomedllama_cli.corpus.bucket.address import Article, parse_xml_url
from biomedllama_cli.corpus.document import Metadata
from biomedllama_cli.corpus.licences import CODES, choose_refusal
from biomedllama_cli.settings.prepare import SelectionSettings

BAD_METADATA = "bad_metadata"
NO_XML = "no_xml"
_FLAGS = {
    "is_retracted": "retracted",
    "is_historical_ocr": "historical_ocr",
    "is_manuscript": "author_manuscript",
}
_MAX_TITLE = 2000


@dataclass(frozen=True, slots=True)
class Facts:
    """What metadata says of an article.

    Attributes:
        metadata: identifiers, licence and flags.
        xml_md5: MD5 of its XML, 16 bytes, or None when there is no XML.
    """

    metadata: Metadata
    xml_md5: bytes | None


def read_facts(article: Article, body: bytes) -> Facts | None:
    """Return what an article's metadata JSON says, or None when it cannot be relied on.

    It must be about this very article, its licence must be a text or null, each flag must be true or false, and its
    XML must be where this article's XML is, with an MD5: silence and contradictions permit nothing.
    """
    try:
        facts = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(facts, dict) or facts.get("pmcid") != f"PMC{article.pmcid}":
        return None
    version, code, url = facts.get("version"), facts.get("license_code"), facts.get("xml_url")
    if type(version) is not int or version != article.version or not isinstance(code, str | None):
        return None
    if any(type(facts.get(name)) is not bool for name in _FLAGS):
        return None
    xml_md5 = parse_xml_url(url, article)
    if url is not None and xml_md5 is None:
        return None
    flags = {flag for name, flag in _FLAGS.items() if facts[name]}
    if facts.get("is_pmc_openaccess") is True:
        flags.add("open_access")
    title, doi = facts.get("title"), facts.get("doi")
    metadata = Metadata(
        pmid=_parse_pmid(facts.get("pmid")),
        version=article.version,
        pmcid=article.pmcid,
        doi=doi.strip().lower() or None if isinstance(doi, str) else None,
        title=title[:_MAX_TITLE] if isinstance(title, str) else "",
        licence=code if code in CODES else None,
        flags=frozenset(flags),
    )
    return Facts(metadata, xml_md5)


def find_refusal(facts: Facts, selection: SelectionSettings) -> str | None:
    """Return why an article is not wanted, in the order in which documents read from disk are judged, or None."""
    flags = facts.metadata.flags
    if selection.retracted == "drop" and "retracted" in flags:
        return "retracted"
    if selection.historical_ocr == "drop" and "historical_ocr" in flags:
        return "historical_ocr"
    refusal = choose_refusal(
        facts.metadata.licence, gate=selection.licences, no_derivatives=selection.no_derivatives
    )
    if refusal is None and facts.xml_md5 is None:
        return NO_XML
    return refusal


def _parse_pmid(value: Any) -> int | None:
    """Return a PMID, which some records spell as text.

    >>> _parse_pmid(17), _parse_pmid("17"), _parse_pmid(""), _parse_pmid(True), _parse_pmid(0)
    (17, 17, None, None, None)
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        value = int(value)
    return value if type(value) is int and 0 < value < 10**9 else None
