"""One JATS article as a document."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from biomedllama_cli.corpus.document import Dropped, Record
from biomedllama_cli.corpus.jats.formulas import join_text
from biomedllama_cli.corpus.jats.metadata import read_language, read_metadata
from biomedllama_cli.corpus.jats.parsing import BrokenArticleError, parse_jats
from biomedllama_cli.corpus.jats.permissions import read_licence
from biomedllama_cli.corpus.jats.text import TextWriter
from biomedllama_cli.corpus.licences import Licence, list_restrictions
from biomedllama_cli.settings.prepare import ArticleSettings

_HEADINGS = {
    None: "Abstract",
    "author-summary": "Author summary",
    "editor-summary": "Editor's summary",
    "editors-summary": "Editors' summary",
    "executive-summary": "Executive summary",
    "graphical": "Graphical abstract",
    "plain-language-summary": "Plain language summary",
    "summary": "Summary",
}
"""Of abstracts without a title, by their `abstract-type`; teasers and the like have none."""


def parse_article(data: bytes, where: str, options: ArticleSettings) -> Record | Dropped:
    """Return the article in a JATS file, or why it cannot be a document.

    The text is title, abstracts, body, appendices and notes as they stand in the file, then sub-articles (reviews,
    replies) as further sections. Left out are translations, parts in another language than the article's, and
    parts whose own licence permits less than the article's.

    Args:
        data: the XML file.
        where: its name, for messages.
        options: what becomes text.
    """
    try:
        article = parse_jats(data)
    except BrokenArticleError as error:
        return Dropped(error.reason, where, error.problem)
    meta = _find_meta(article)
    licence = read_licence(meta)
    ids = frozenset(found for ref in article.iter("ref") for found in (ref.get("id"),) if found)
    writer = TextWriter(options, licence, ids)
    title = _read_title(writer, meta)
    metadata = read_metadata(article, meta, title, licence)
    language = read_language(article)
    for part in _iter_parts(article, licence, language):
        if part is not article:
            writer.write_line(_read_title(writer, _find_meta(part)))
        for abstract in _find_meta(part).iterfind("abstract"):
            if read_language(abstract) in (None, language):
                _write_abstract(writer, abstract)
        writer.write(child for child in part if child.tag in ("body", "back", "floats-group", "floats-wrap"))
    text = writer.take_text()
    if not text:
        return Dropped("no_text", where, "", metadata, title)
    return Record(f"{title}\n\n{text}" if title else text, None, where, metadata)


def _find_meta(article: etree._Element) -> etree._Element:
    for path in ("front/article-meta", "front-stub", "front"):
        found = article.find(path)
        if found is not None:
            return found
    return etree.Element("article-meta")


def _read_title(writer: TextWriter, meta: etree._Element) -> str:
    group = meta.find("title-group")
    if group is None:
        return ""
    parts = [group.find("article-title"), *group.iterfind("subtitle")]
    return ": ".join(title for part in parts if (title := writer.read_title(part)))


def _write_abstract(writer: TextWriter, abstract: etree._Element) -> None:
    kind = abstract.get("abstract-type")
    if abstract.find("title") is None and kind in _HEADINGS and join_text(abstract).strip():
        writer.write_line(_HEADINGS[kind])
    writer.write((abstract,))


def _iter_parts(article: etree._Element, licence: Licence, language: str | None) -> Iterator[etree._Element]:
    """Yield the article and those of its sub-articles that belong to its text, in document order."""
    waiting = [article]
    while waiting:
        part = waiting.pop()
        if part is not article and not _belongs(part, licence, language):
            continue
        yield part
        waiting += reversed([child for child in part if child.tag in ("sub-article", "response")])


def _belongs(part: etree._Element, licence: Licence, language: str | None) -> bool:
    kind = part.get("article-type") or part.get("response-type")
    if kind == "translation" or read_language(part) not in (None, language):
        return False
    own = read_licence(_find_meta(part))
    if own.problem == "no_licence" or licence.code is None:
        return own.problem != "licence_conflict" or licence.code is None
    return own.code is not None and list_restrictions(own.code) <= list_restrictions(licence.code)
