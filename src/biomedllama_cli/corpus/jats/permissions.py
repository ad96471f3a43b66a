"""Where a JATS article states its licence.

Elements: https://jats.nlm.nih.gov/archiving/tag-library/1.3/element/permissions.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree

from biomedllama_cli.corpus.licences import (
    CODES,
    Licence,
    Statement,
    classify,
    combine_with_metadata,
    list_restrictions,
)

_HREF = "{http://www.w3.org/1999/xlink}href"
_RESERVED = re.compile(r"\b(?:with|by) (?:\w+ ){0,2}permission\b|\ball rights reserved\b", re.IGNORECASE)
_LICENSE_REF = "{http://www.niso.org/schemas/ali/1.0/}license_ref"


def read_licence(meta: etree._Element) -> Licence:
    """Return the licence of an article from its `article-meta` (or `front-stub`).

    Only what stands there counts: figures and boxes have permissions of their own. PubMed Central's own code, where
    the file carries one, must agree.
    """
    stated = read_own_licence(meta)
    for custom in meta.iterfind("custom-meta-group/custom-meta"):
        if (custom.findtext("meta-name") or "").strip() == "pmc-license-ref":
            code = (custom.findtext("meta-value") or "").strip()
            if code in CODES:
                stated = combine_with_metadata(stated, code)
    return stated


def read_own_licence(element: etree._Element) -> Licence:
    """Return the licence that an element's own permissions name (before NLM 3.0 they stood in it directly)."""
    return classify(_iter_statements(element))


def may_be_kept(element: etree._Element, licence: Licence) -> bool:
    """Tell whether a figure, table or box with permissions of its own permits what the article's licence does.

    Those that are reproduced by permission of others, or under stricter terms, are not part of what is licensed.
    """
    if licence.code is None:
        return True
    statements = list(_iter_statements(element))
    own = classify(statements)
    if own.problem == "no_licence":
        return not any(_RESERVED.search(statement.prose) for statement in statements)
    return own.code is not None and list_restrictions(own.code) <= list_restrictions(licence.code)


def _iter_statements(element: etree._Element) -> Iterator[Statement]:
    for holder in (element, *element.iterfind("permissions")):
        for child in holder:
            if child.tag == "license":
                yield _read_license(child)
            elif child.tag == "copyright-statement":
                yield Statement(prose=_read_prose(child))
            elif child.tag == _LICENSE_REF:
                yield Statement(links=((child.text or "").strip(),))


def _read_license(element: etree._Element) -> Statement:
    references = [(child.text or "").strip() for child in element.iter(_LICENSE_REF)]
    links = [link for link in (element.get(_HREF), *references) if link]
    kind = element.get("license-type")
    return Statement(tuple(links), (kind,) if kind else (), _read_prose(element))


def _read_prose(element: etree._Element) -> str:
    """Return the text with the address of each link behind it, where a sentence about the data keeps its own."""
    parts = []
    for event, node in etree.iterwalk(element, events=("start", "end", "comment", "pi")):
        if event == "start" and node.tag != _LICENSE_REF:
            parts.append(node.text or "")
        elif event == "end" and node is not element:
            link = node.get(_HREF)
            parts.append(f" {link} " if link and link not in (node.text or "") else "")
        if event != "start" and node is not element:
            parts.append(node.tail or "")
    return "".join(parts)
