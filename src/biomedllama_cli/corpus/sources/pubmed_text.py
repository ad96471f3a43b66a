"""PubMed's titles and abstracts as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.entities import html5

from lxml import etree

from biomedllama_cli.corpus.jats.formulas import MATHML, read_mathml

_NO_LABEL = ("", "UNLABELLED", "UNLABELED", "UNASSIGNED", "ABSTRACT")
_NO_TITLE = ("not available", "no title available")
# Added by NLM to long abstracts from 1975 to 2000: no words of the authors.
_CUT_OFF = re.compile(r"\s*\(ABSTRACT TRUNCATED(?: AT \d+ WORDS)?\)$")


class UnresolvedEntityError(Exception):
    """A text holds an entity of a DTD, which is never looked up: without it the text would be another.

    Args:
        name: of the entity, as it stands there (`&name;`).
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def flatten(element: etree._Element | None) -> str:
    """Return the text of an element with that of its inline markup, in order, white space made single.

    Formulas come in one line, HTML's entities as characters.

    Raises:
        UnresolvedEntityError: it holds an entity that HTML does not know.
    """
    if element is None:
        return ""
    if len(element) == 0:
        return " ".join((element.text or "").split())
    return " ".join("".join(_iter_text(element)).split())


def _iter_text(element: etree._Element) -> Iterator[str]:
    if element.text:
        yield element.text
    for child in element:
        if child.tag is etree.Entity:
            yield _resolve(child)
        elif child.tag == f"{MATHML}math":
            for entity in child.iter(etree.Entity):
                raise UnresolvedEntityError((entity.text or "")[:80])
            yield read_mathml(child)
        elif isinstance(child.tag, str):  # no comment, no processing instruction
            yield from _iter_text(child)
        if child.tail:
            yield child.tail


def _resolve(entity: etree._Element) -> str:
    """Return the character of one of HTML's entities."""
    name = (entity.text or "").removeprefix("&")
    if name not in html5:
        raise UnresolvedEntityError((entity.text or "")[:80])
    return html5[name]


def clean_title(title: str) -> str:
    """Return a title without the brackets that mark a translation, or nothing where NLM says there is none.

    >>> clean_title("[Serum ferritin in anaemia (author's transl)].")
    'Serum ferritin in anaemia.'
    >>> clean_title("[14C]Glucose and [3H]leucine."), clean_title("[Not Available].")
    ('[14C]Glucose and [3H]leucine.', '')
    """
    bare = title.rstrip(".").rstrip()
    if bare.startswith("[") and _find_closing(bare) == len(bare) - 1:
        inner = bare[1:-1].strip().removesuffix("(author's transl)").strip()
        title = inner if inner.endswith((".", "?", "!")) else f"{inner}."
        bare = inner
    return "" if bare.rstrip(".").lower() in _NO_TITLE or not bare else title


def _find_closing(text: str) -> int:
    """Return where the bracket that `text` begins with is closed, or -1."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth == 0:
            return index
    return -1


def build_abstract(head: etree._Element, article: etree._Element) -> list[str]:
    """Return the abstract in its parts, each behind its label.

    Publishers' copyright lines stay out. Of other abstracts only those declared English count: a plain-language
    summary follows the abstract; any other stands in where there is no abstract (else it says the same again).

    Args:
        head: `MedlineCitation` or `BookDocument`.
        article: `Article` or `BookDocument`.

    Raises:
        UnresolvedEntityError: it holds an entity that HTML does not know.
    """
    main = article.find("Abstract")
    parts = [] if main is None else _read_parts(main)
    others = [other for other in head.iterfind("OtherAbstract") if other.get("Language", "eng") == "eng"]
    plain = [other for other in others if other.get("Type") == "plain-language-summary"]
    if not parts:
        rest = (_read_parts(other) for other in others if other not in plain)
        parts = next((found for found in rest if found), [])
    for other in plain:
        parts += _read_parts(other)
    return parts


def _read_parts(abstract: etree._Element) -> list[str]:
    parts = []
    for child in abstract.iterchildren("AbstractText"):
        text = flatten(child)
        if text.endswith(("WORDS)", "TRUNCATED)")):
            text = _CUT_OFF.sub("", text)
        label = " ".join(child.get("Label", "").split()).rstrip(":").rstrip()
        if text:
            parts.append(text if label.upper() in _NO_LABEL else f"{label}: {text}")
    return parts
