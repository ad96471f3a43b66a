"""Formulas as text: TeX as it is written, MathML in one line.

MathML: https://www.w3.org/TR/MathML3/
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree

MATHML = "{http://www.w3.org/1998/Math/MathML}"
_DOCUMENT = re.compile(r"\\begin\{document\}(.*?)(?:\\end\{document\}|$)", re.DOTALL)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)"))
_BEFORE = {
    "mfrac": ("", "/"),
    "msub": ("", "_"),
    "msup": ("", "^"),
    "msubsup": ("", "_", "^"),
    "munder": ("", "_"),
    "mover": ("", "^"),
    "munderover": ("", "_", "^"),
    "mroot": ("", ", "),
}
"""What stands before each child."""
_AROUND = {"msqrt": ("sqrt(", ")"), "mroot": ("root(", ")")}
_TRANSPARENT = frozenset({"mrow", "mstyle", "mpadded", "semantics"})
_LEFT_OUT = frozenset(
    {"annotation", "annotation-xml", "mphantom", "none", "mprescripts", "maligngroup", "malignmark"}
)
_LEAVES = frozenset({"mi", "mn", "mo", "mtext", "ms"})
# fmt: off
_ACCENTS = {
    "^": "\u0302", "ˆ": "\u0302", "¯": "\u0304", "‾": "\u0304", "_": "\u0304", "-": "\u0304", "~": "\u0303",
    "˜": "\u0303", "∼": "\u0303", "→": "\u20d7", "˙": "\u0307", ".": "\u0307", "¨": "\u0308", "ˇ": "\u030c",
}
# fmt: on
_INVISIBLE = re.compile("[\u2061-\u2064\u200b\ufeff]")


def join_text(element: etree._Element) -> str:
    """Return all text in an element, as it stands there."""
    return "".join(map(str, element.itertext()))


def read_tex(element: etree._Element) -> str:
    r"""Return a formula of `tex-math` between dollars, without the preamble publishers put around it.

    >>> read_tex(etree.fromstring(r"<t>\documentclass{minimal}\begin{document}$$x^2$$\end{document}</t>"))
    '$x^2$'
    """
    text = join_text(element)
    found = _DOCUMENT.search(text)
    formula = " ".join((found[1] if found else text).split())
    for left, right in _DELIMITERS:
        if formula.startswith(left) and formula.endswith(right) and len(formula) > len(left) + len(right):
            formula = formula[len(left) : -len(right)].strip()
            break
    return f"${formula}$" if formula and "$" not in formula else formula


def read_mathml(math: etree._Element) -> str:
    """Return a formula of MathML in one line, in the notation of TeX where it has structure.

    The TeX that stands beside it is preferred.

    >>> mi = f"<mfrac xmlns='{MATHML[1:-1]}'><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mn>1</mn></mrow></mfrac>"
    >>> read_mathml(etree.fromstring(mi))
    'a/(b+1)'
    """
    written = math.get("alttext") or ""
    for note in math.iter(f"{MATHML}annotation"):
        written = written or ((note.text or "") if "tex" in note.get("encoding", "").lower() else "")
    if written.strip():
        return " ".join(written.split())
    parts: list[str] = []
    # Each level: its children, what closes it.
    stack: list[tuple[Iterator[tuple[str, etree._Element, str]], str]] = [(iter([("", math, "")]), "")]
    while stack:
        children, closing = stack[-1]
        step = next(children, None)
        if step is None:
            stack.pop()
            parts.append(closing)
            continue
        before, element, after = step
        name = _name(element)
        if name in _LEAVES:
            leaf = join_text(element) if len(element) else element.text or ""
            leaf = leaf if name in ("mtext", "ms") else leaf.strip()
            parts += (before, _space_before(parts, before, leaf), leaf, after)
        elif name == "mspace":
            parts.append(" ")
        elif name not in _LEFT_OUT:
            opening, end = _AROUND.get(name, ("", ""))
            if name == "mfenced":
                opening, end = element.get("open", "("), element.get("close", ")")
            parts += (before, opening)
            stack.append((_iter_children(element, name), end + after))
    return " ".join(_INVISIBLE.sub("", "".join(parts)).split())


def _name(element: etree._Element) -> str:
    """Return the local name; that of a comment or the like is left out."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else "none"


def _iter_children(element: etree._Element, name: str) -> Iterator[tuple[str, etree._Element, str]]:
    """Yield each child with what stands before and after it."""
    children = [child for child in element if isinstance(child.tag, str)]
    if name in _TRANSPARENT or name in ("mtd", "math", "msqrt"):
        yield from (("", child, "") for child in children)
        return
    if name == "mover" and len(children) == 2 and (accent := _find_accent(*children)):
        yield "", children[0], accent
        return
    before = _BEFORE.get(name, ())
    separators = "".join(element.get("separators", ",").split()) if name == "mfenced" else ""
    for index, child in enumerate(children):
        text = before[index] if index < len(before) else ""
        if index and separators:
            text = separators[min(index, len(separators)) - 1] + " "
        elif index and name == "mtable":
            text = "; "
        elif index and name == "mtr":
            text = " "
        if (name == "mfrac" or (index and before and name != "mroot")) and not _is_simple(child):
            left, right = "()" if name == "mfrac" else "{}"
            yield text + left, child, right
        else:
            yield text, child, ""


def _unwrap(element: etree._Element) -> etree._Element:
    while len(element) == 1 and _name(element) in _TRANSPARENT:
        element = element[0]
    return element


def _is_simple(element: etree._Element) -> bool:
    return len(_unwrap(element)) == 0


def _find_accent(base: etree._Element, over: etree._Element) -> str:
    """Return the combining character for an accent over a single letter, or nothing."""
    base, over = _unwrap(base), _unwrap(over)
    if len(base) or len(over) or len((base.text or "").strip()) != 1:
        return ""
    return _ACCENTS.get((over.text or "").strip(), "")


def _space_before(parts: list[str], before: str, leaf: str) -> str:
    """Return a space where two words or a word and a number would run into one."""
    if before or not leaf[:1].isalnum():
        return ""
    previous = next((part for part in reversed(parts[-4:]) if part), "")
    words = len(leaf) > 1 and leaf.isalpha(), len(previous) > 1 and previous.isalpha()
    return " " if previous[-1:].isalnum() and any(words) else ""
