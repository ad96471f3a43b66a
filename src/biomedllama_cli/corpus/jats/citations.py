"""Citation markers taken out of a paragraph with their brackets and commas, so that no `[, ]` is left.

A marker is held between two characters that no XML document can contain.
"""

from __future__ import annotations

import re

START, END = "\x01", "\x02"
"""Around a marker in the text of a paragraph; between them stands what remains of it outside of brackets."""

_WORD = re.compile(r"[^\W\d_]{2}")
_MARK = rf"{START}[^{START}{END}]*{END}"
# Between two markers: [1]-[3], [1,2], [1; 2], [1 and 2]. A range of names is no range.
_CHAIN = re.compile(rf"({_MARK})(?: ?(?:[,;/&‐‑‒–—−-]|,? ?\band\b|\bto\b)? ?{_MARK})+")
_FILLER = (
    r"(?:see(?: also)?|e\.? ?g\.?,?|i\.? ?e\.?,?|cf\.?|ref(?:s|erences?)?\.?|(?:as )?reviewed (?:in|by)"
    r"|for (?:an? |recent |detailed )*(?:reviews?|overview|details?|discussion),?(?: see)?|and references therein"
    r"|also|and others|among others|in|by|but see|compare)"
)
_GROUP = re.compile(rf"[\[(](?i:(?: ?{_FILLER}[ ,;:]*)* ?{_MARK}[ ,;]*(?: ?{_FILLER}[ ,;]*)*) ?[\])]")
_OPENING = ("(", "[", "{", "“", "‘")


def hold_marker(text: str) -> str:
    r"""Return a marker to be taken out by `drop_markers`.

    Numbers are nothing but a marker; a name and a year may be the subject of a sentence.

    >>> hold_marker("[12]"), hold_marker("Hites 2004")
    ('\x01\x02', '\x01Hites 2004\x02')
    """
    text = text.replace(START, "").replace(END, "")
    return f"{START}{text if _WORD.search(text) else ''}{END}"


def drop_markers(text: str) -> str:
    """Return a paragraph without its held markers; names and years outside of brackets stay as text.

    >>> one, two = hold_marker("1"), hold_marker("2")
    >>> drop_markers(f"as shown [{one}, {two}]. In mice {one}–{two}, it is (see {one} for a review) not.")
    'as shown. In mice, it is not.'
    >>> drop_markers(f"in humans (Figure 2; {hold_marker('Hites 2004')}); {hold_marker('Birnbaum (2004)')} found")
    'in humans (Figure 2); Birnbaum (2004) found'
    """
    text = _CHAIN.sub(_join_chain, text)
    text = _GROUP.sub(f"{START}{END}", text)
    parts = text.split(START)
    for index in range(1, len(parts)):
        kept, _, after = parts[index].partition(END)
        parts[index - 1 : index + 1] = _join(parts[index - 1], kept, after)
    return "".join(parts).strip()


def _join(before: str, kept: str, after: str) -> tuple[str, str]:
    """Return what stands before and behind a marker when the marker is gone, or what is kept of it written."""
    closing, bare = after.lstrip(" ")[:1], before.rstrip(" ")
    if bare.endswith((",", ";")) and (closing in (")", "]") or (not kept and closing in ("", ".", ";", ":"))):
        return bare[:-1], after  # (Figure 2; [1]) and: in mice, [1].
    if bare.endswith(("(", "[")) and closing in (",", ";"):
        return bare, after.lstrip(" ")[1:].lstrip(" ")
    following = after[:1]
    if kept:
        return before, kept + (" " if following.isalnum() else "") + after
    if following.isalnum():
        return before, (" " if before[-1:].isalnum() else "") + after
    # The space before a marker goes with it, save where a bracket opens behind it.
    return before if following in _OPENING else before.removesuffix(" "), after


def _join_chain(found: re.Match[str]) -> str:
    """Return a chain of numbers as one marker, and one with names as it is."""
    whole = found[0]
    if whole.count(START + END) == whole.count(START):
        return START + END
    return START + whole.replace(START, "").replace(END, "") + END
