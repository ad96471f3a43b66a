"""Which licence an article states, and what that licence permits.

Links, attributes and prose are read apart; two that name different licences contradict each other, and a
contradiction or silence permits nothing. Codes are those of PubMed Central's metadata and `public domain`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

CODES = (
    "CC0",
    "CC BY",
    "CC BY-SA",
    "CC BY-ND",
    "CC BY-NC",
    "CC BY-NC-SA",
    "CC BY-NC-ND",
    "public domain",
    "TDM",
)
"""Licences told apart; `TDM` is text and data mining for research only, as PubMed Central's author manuscripts."""

MAX_PROSE = 20_000
"""Prose read of one statement (in characters); the longest licences quoted in full have half of that."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What one element of an article says of its licence.

    Attributes:
        links: addresses it names as the licence.
        kinds: short names, as in JATS's `license-type` (`cc-by`, `public-domain`, `open-access`).
        prose: its text, with the addresses of its links.
    """

    links: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    prose: str = ""


@dataclass(frozen=True, slots=True)
class Licence:
    """One licence, or why there is none.

    Attributes:
        code: one of `CODES`, or None.
        problem: empty with a code; else `no_licence` (silence, or terms of another kind) or `licence_conflict`.
    """

    code: str | None
    problem: Literal["", "no_licence", "licence_conflict"] = ""


NO_LICENCE = Licence(None, "no_licence")
CONFLICT = Licence(None, "licence_conflict")

_CC_HOST = r"(?:https?:)?(?://)?(?:www\.)?creativecommons\.org"
_CC_PATH = (
    r"/(?:(?:licen[cs]es|licen[cs]e)/(?P<parts>(?:by|nc|nd|sa)(?:-(?:by|nc|nd|sa))*)(?![a-z])"
    r"|(?P<zero>publicdomain/zero)|(?P<mark>publicdomain/mark|licen[cs]es/publicdomain))"
)
_CC_LINK = re.compile(rf"\s*{_CC_HOST}{_CC_PATH}", re.IGNORECASE)
_CC_LINK_IN_PROSE = re.compile(rf"(?<![\w./-]){_CC_HOST}{_CC_PATH}[\w./-]*", re.IGNORECASE)
_OTHER_LINKS = (
    ("CC BY", re.compile(r"nationalarchives\.gov\.uk/doc/open-government-licen[cs]e\b", re.IGNORECASE)),
    ("CC BY-NC", re.compile(r"nationalarchives\.gov\.uk/doc/non-commercial-government-licen", re.IGNORECASE)),
    ("public domain", re.compile(r"//(?:www\.)?usa\.gov/(?:government-works|publicdomain)", re.IGNORECASE)),
    ("TDM", re.compile(r"[/_]tdm(?![a-z])|nature\.com/authors/editorial_policies/licen[cs]e", re.IGNORECASE)),
)
_URL = re.compile(r"(?:https?://|www\.|creativecommons\.org)\S*", re.IGNORECASE)
_HYPHENS = re.compile("[\u2010-\u2015\u2212\u00ad]")
_US = re.compile(r"\bU\.?\s?S\.?(?:\s?A\.?)?(?=\s)")
_SENTENCE_END = re.compile(r"(?<=[.;!?])\s+(?=[A-Z(©\"“])")

# A sentence of a licence that is about something else than the article: BMC gives the data to the public domain,
# EHP warns of photographs under others' copyright, Springer speaks of third parties' images.
_THING = r"(?:images?|figures?|photographs?|illustrations?|data(?:sets?)?|metadata|tables|software|code|third.party)"
_OTHER_MATTER = re.compile(
    rf"^\W*(?:(?:all|the|any|some|certain|other)\s+)*(?:original\s+)?{_THING}\b"
    rf"|\bappl(?:y|ies) to (?:(?:the|all|any)\s+)?(?:{_THING}|abstract)\b"
    rf"|\b{_THING}\b[^.]{{0,80}}\b(?:copyright|third part|credit line)"
    r"|\bcontains public sector information",
    re.IGNORECASE,
)
_NC = (
    r"non\W?\s?commerc\w*|no\W?\s?comercia\w*|n[aã]o\W?\s?comercia\w*|pas d.utilisation commerciale"
    r"|nicht\W?\s?kommerziell\w*|\bnc\b"
)
_ND = r"(?:no|non)\W?\s?deriv\w*|(?:sin|sem)\s?(?:obras?\s?)?deriva\w*|keine bearbeitung\w*|\bnd\b"
_SA = r"share\W?\s?alike|compartir\W?\s?igual|compartilha\w*\W?\s?igual|\bsa\b"
_BY = r"attribution|atribuci[oó]n|atribui[cç][aã]o|reconocimiento|namensnennung"
_NAME = re.compile(
    rf"(?:{_BY}|\bcc\W?\s?by(?![a-z])|\bby(?=-nc|-nd|-sa))(?P<rest>(?:[\s\-/,.]*(?:{_NC}|{_ND}|{_SA}))*)"
)
_ZERO = re.compile(r"\bcc\W?(?:0|zero)\b|creative commons (?:0|zero)\b|public domain dedication")
_COMMERCIAL_TOO = re.compile(
    r"(?<!non)(?<!non\W)\bcommercial(?:ly)?(?: (?:and|or|as well as) |/)non\W?commercial(?:ly)?"
    r"|\bnon\W?commercial(?:ly)?(?: (?:and|or|as well as) |/)commercial(?:ly)?"
)
_EVIDENCE = {
    "NC": re.compile(
        rf"{_NC}|\bnot\b[^.]{{0,60}}\b(?:for|of) (?:any )?commercial"
        r"|\bfor commercial (?:re\W?use|use|purpose)[^.]{0,40}\b(?:contact|permission|licen)"
    ),
    "ND": re.compile(
        rf"{_ND}|without (?:any )?modif|\bno (?:modifications?|adaptations?|alterations?)|\bunmodified\b"
        r"|\bnot (?:be )?(?:altered|changed|transformed|modified|adapted)|not have permission[^.]{0,40}adapted"
    ),
    "SA": re.compile(rf"{_SA}|\bidentical (?:terms|licen)|\bunder the same (?:terms|licen|conditions)"),
}
_GRANT = re.compile(
    r"\bunrestricted (?:re\W?)?use, (?:distribution|reproduction),? (?:and|or) (?:re|di)\w+ in any medium"
)
_OPEN_GOVERNMENT = re.compile(r"(?<!commercial )\bopen government licen[cs]e")
_PUBLIC_DOMAIN = re.compile(
    r"\b(?:in|into|to) (?:the )?public domain\b|public domain mark|\bfree of (?:all |any )?copyright"
    r"|\bnot (?:subject to|protected by|eligible for) (?:\w+ ){0,2}copyright|\bwithout copyright\b"
    r"|\b(?:us|united states) (?:federal )?government(?:'s|’s)? works?\b"
    r"|\bworks? of (?:the|a) (?:us|united states) (?:federal )?government\b"
)
_NOT_PUBLIC = re.compile(
    r"\bnot (?:be )?(?:in|into) (?:the )?public domain|\bportions?\b|\bparts? of th(?:is|e) (?:work|article)"
)
_MINING = re.compile(r"\btext\W?\s?(?:and|&)?\W?\s?(?:data\W?\s?)?min(?:e|ing)\b|\bdata\W?\s?min(?:e|ing)\b")
_MINING_REFUSED = re.compile(r"\breserv|\bnot\b|prohibit|\bexcept\b|exclud")


def _build_code(parts: Iterable[str]) -> str | None:
    """Return the code of a licence of the attribution family; ND and SA exclude each other."""
    upper = {part.upper() for part in parts}
    code = "-".join(["CC BY", *(part for part in ("NC", "ND", "SA") if part in upper)])
    return code if code in CODES else None


def classify_link(link: str) -> str | None:
    """Return the code of the licence an address names, or None.

    >>> classify_link("https://creativecommons.org/licenses/by-nc-nd/3.0/igo/deed.fr")
    'CC BY-NC-ND'
    >>> classify_link("http://www.creativecommons.org/publicdomain/zero/1.0"), classify_link("https://a.org/by/4.0")
    ('CC0', None)
    """
    found = _CC_LINK.match(link)
    if found:
        return _code_of(found)
    return next((code for code, pattern in _OTHER_LINKS if pattern.search(link)), None)


def _code_of(found: re.Match[str]) -> str | None:
    if found["zero"]:
        return "CC0"
    return "public domain" if found["mark"] else _build_code(found["parts"].split("-"))


def classify_prose(prose: str) -> frozenset[str]:
    """Return the codes of all licences that a text names for the article itself, links in it included.

    Words that restrict (non-commercial use, no modifications) count where a Creative Commons licence is named:
    the name and the restriction together are one licence.

    >>> sorted(classify_prose("distributed under the Creative Commons Attribution Non-Commercial License"))
    ['CC BY-NC']
    >>> sorted(classify_prose("CC BY 4.0. The Creative Commons CC0 waiver applies to the data."))
    ['CC BY']
    """
    text = _US.sub("US", _HYPHENS.sub("-", " ".join(prose[:MAX_PROSE].split())))
    sentences = [part for part in _SENTENCE_END.split(text) if not _OTHER_MATTER.search(part)]
    found = {
        code for part in sentences for link in _CC_LINK_IN_PROSE.finditer(part) if (code := _code_of(link))
    }
    found |= {code for part in sentences for code, pattern in _OTHER_LINKS if pattern.search(part)}
    words = [_COMMERCIAL_TOO.sub(" ", _URL.sub(" ", part).lower()) for part in sentences]
    found |= _name_attribution(" ".join(words), linked=bool(found - {"TDM", "public domain"}))
    for part in words:
        if _ZERO.search(part):
            found.add("CC0")
        elif _PUBLIC_DOMAIN.search(part) and not _NOT_PUBLIC.search(part):
            found.add("public domain")
        if _MINING.search(part) and not _MINING_REFUSED.search(part):
            found.add("TDM")
    return frozenset(found)


def _name_attribution(words: str, *, linked: bool) -> set[str]:
    """Return the licence of the attribution family that words without addresses describe, if any."""
    creative = "creative common" in words or bool(re.search(r"\bcc\W?\s?by\b", words))
    names = [found for found in _NAME.finditer(words) if creative or found["rest"]]
    restricted = {part for part, pattern in _EVIDENCE.items() if pattern.search(words)}
    if names or (creative and restricted):
        code = _build_code(restricted)
        # ND and SA together are no licence there is: two that contradict each other.
        return {code} if code else {"CC BY-ND", "CC BY-SA"}
    if restricted or linked:
        return set()
    # The UK's licence asks for attribution alone and declares itself interoperable with CC BY; unrestricted use,
    # distribution and reproduction in any medium are what CC BY grants, in the words of its own summary.
    return {"CC BY"} if _OPEN_GOVERNMENT.search(words) or _GRANT.search(words) else set()


def classify(statements: Iterable[Statement]) -> Licence:
    """Return the one licence that all statements of an article name.

    A permission to mine text adds nothing to a licence beside it, and what is in the public domain in part (work of
    government employees) stays under the licence of the whole; any other difference is a contradiction.

    >>> classify([Statement(links=("https://creativecommons.org/licenses/by/4.0/",))])
    Licence(code='CC BY', problem='')
    >>> classify([Statement(kinds=("cc-by",)), Statement(prose="for non-commercial use, CC BY-NC")]).problem
    'licence_conflict'
    """
    found: set[str] = set()
    for statement in statements:
        found |= {code for link in statement.links if (code := classify_link(link))}
        for kind in statement.kinds:
            found |= classify_prose(
                kind.replace("public-domain", "public domain mark").replace("ccby", "cc-by")
            )
        found |= classify_prose(statement.prose)
    for weak in ("TDM", "public domain"):
        if len(found) > 1:
            found.discard(weak)
    if len(found) > 1:
        return CONFLICT
    return Licence(found.pop()) if found else NO_LICENCE


def combine_with_metadata(stated: Licence, code: str | None) -> Licence:
    """Return the licence of an article that PubMed Central's metadata describe, too: the stricter reading.

    Both must name the same licence. Metadata without a code (`null`: no licence PubMed Central has a code for)
    contradict a Creative Commons licence, not the public domain; a code does not stand in for an article's own
    silence, except `TDM`, which is PubMed Central's own permission for author manuscripts.

    Args:
        stated: what the article says.
        code: `license_code` of its metadata.
    """
    if stated.code is None:
        return Licence("TDM") if code == "TDM" and stated.problem == "no_licence" else stated
    free = ("CC0", "public domain")
    if stated.code == code or (stated.code in free and code in free):
        return stated
    if code is None and stated.code in ("public domain", "TDM"):
        return stated
    return CONFLICT


def list_restrictions(code: str | None) -> frozenset[str]:
    """Return what a licence asks or forbids: subsets permit more.

    >>> sorted(list_restrictions("CC BY-NC")), sorted(list_restrictions("CC0"))
    (['BY', 'NC'], [])
    """
    if code in ("CC0", "public domain"):
        return frozenset()
    if code is None or not code.startswith("CC "):
        return frozenset({"BY", "NC", "ND", "SA", "reserved"})
    return frozenset(code.removeprefix("CC ").split("-"))


def choose_refusal(
    licence: str | None,
    *,
    gate: Literal["commercial", "noncommercial", "all"],
    no_derivatives: Literal["drop", "keep"],
) -> str | None:
    """Return the reason why a licence does not pass the gate, or None.

    >>> choose_refusal("CC BY-NC-ND", gate="commercial", no_derivatives="keep")
    'noncommercial_licence'
    >>> choose_refusal("CC BY-NC-ND", gate="noncommercial", no_derivatives="drop")
    'no_derivatives_licence'
    """
    if gate == "all":
        return None
    if licence not in CODES:
        return "no_licence"
    if licence == "TDM":
        return "text_mining_only"
    restrictions = list_restrictions(licence)
    if gate == "commercial" and "NC" in restrictions:
        return "noncommercial_licence"
    if no_derivatives == "drop" and "ND" in restrictions:
        return "no_derivatives_licence"
    return None
