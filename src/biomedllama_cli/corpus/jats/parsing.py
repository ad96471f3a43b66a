"""JATS parsed from bytes that are not trusted: nothing is fetched, no entity is replaced, the tree is bounded."""

from __future__ import annotations

from functools import cache
from html.entities import html5

from lxml import etree

from biomedllama_cli.corpus.sources.xml_stream import describe_syntax_error

MAX_BYTES = 64 << 20
"""Largest article (in bytes); papers with thousands of authors or genes reach 30 MB."""
MAX_MARKS = 3_000_000
"""Most tags and attributes of one article, counted by their `<` and `=`: a tree takes some 200 bytes for each, so
this is what bounds the memory."""
_CITATIONS = "PubmedArticleSet"


class BrokenArticleError(Exception):
    """An article cannot be read.

    Args:
        reason: snake_case key under which it is counted.
        problem: the end of a sentence after its name.
    """

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason
        self.problem = problem


def parse_jats(data: bytes) -> etree._Element:
    """Return the `article` of a JATS document, without namespace where it had one, entities of HTML as characters.

    Raises:
        BrokenArticleError: `record_too_large`, `broken_xml` (not well-formed, nested deeper than 256, a text longer
            than 10 MB), `other_xml` (not one article) or `xml_entity` (an entity HTML does not know, which is never
            looked up: without it the text would be another).
    """
    if len(data) > MAX_BYTES:
        raise BrokenArticleError(
            "record_too_large", f"it has {len(data)} bytes, at most {MAX_BYTES} are read"
        )
    if data.count(b"<") + data.count(b"=") > MAX_MARKS:
        problem = f"it has more than {MAX_MARKS} tags and attributes"
        raise BrokenArticleError("record_too_large", problem)
    try:
        root = etree.fromstring(data, _build_parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        message = describe_syntax_error(str(error)) or "nothing in it"
        raise BrokenArticleError("broken_xml", f"the XML is not well-formed ({message})") from None
    article = _find_article(root)
    for entity in list(article.iter(etree.Entity)):
        _replace_entity(entity)
    return article


@cache
def _build_parser() -> etree.XMLParser:
    # Not collect_ids=False: with it libxml2 goes looking for the DTD.
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        recover=False,
        remove_comments=True,
    )


def _find_article(root: etree._Element) -> etree._Element:
    """Return the article itself, also out of the wrappers of NCBI's and other services."""
    found = [element for element in root.iter("{*}article") if _is_outermost(element)]
    if len(found) != 1:
        name = str(root.tag)[:80]
        remark = "; --source pubmed reads citations" if name == _CITATIONS else ""
        raise BrokenArticleError(
            "other_xml", f"it is a document of {name!r} with {len(found)} articles, not one{remark}"
        )
    article = found[0]
    namespace = str(article.tag).rpartition("}")[0]
    if namespace:
        prefix = namespace + "}"
        for element in article.iter(f"{prefix}*"):
            element.tag = str(element.tag).removeprefix(prefix)
    return article


def _is_outermost(element: etree._Element) -> bool:
    return next(element.iterancestors("{*}article"), None) is None


def _replace_entity(entity: etree._Element) -> None:
    name = (entity.text or "").strip("&;")
    characters = html5.get(f"{name};")
    if characters is None:
        raise BrokenArticleError(
            "xml_entity", f"its text holds the entity &{name[:80]};, which is not looked up"
        )
    parent, before = entity.getparent(), entity.getprevious()
    assert parent is not None
    text = characters + (entity.tail or "")
    if before is None:
        parent.text = (parent.text or "") + text
    else:
        before.tail = (before.tail or "") + text
    entity.tail = None
    parent.remove(entity)
