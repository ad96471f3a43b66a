"""Ways in which a benchmark item gets into training text, and changes that a copy goes through."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable

_MARKS = ".,;:!?()[]\"'-/"
_TWINS = {
    "-": "\u2011",
    "'": "\u2019",
    '"': "\u201d",
    " ": "\u00a0",
    "fi": "\ufb01",
    "fl": "\ufb02",
    "ff": "\ufb00",
    "a": "\u00e1",
    "0": "\uff10",
    "1": "\u00b9",
}


def change_case(text: str, random_numbers: random.Random) -> str:
    """Return upper case, title case or letters of random case."""
    kind = random_numbers.randrange(3)
    if kind < 2:
        return text.upper() if kind else text.title()
    return "".join(random_numbers.choice((c.upper(), c.lower())) for c in text)


def change_punctuation(text: str, random_numbers: random.Random) -> str:
    """Delete all punctuation, turn it into spaces or other marks, or put more of it between words."""
    kind = random_numbers.randrange(4)
    if kind == 0:
        return "".join(c for c in text if c.isalnum() or c.isspace())
    if kind == 1:
        return "".join(c if c.isalnum() or c.isspace() else " " for c in text)
    if kind == 2:
        return "".join(c if c.isalnum() or c.isspace() else random_numbers.choice(_MARKS) for c in text)
    return re.sub(
        r"\s+", lambda _: random_numbers.choice((", ", " \u2013 ", "; ", "\n", " ", " \u201c")), text
    )


def change_unicode(text: str, random_numbers: random.Random) -> str:
    """Return another spelling in Unicode: decomposed, full width, or with ligatures, accents and other spaces."""
    kind = random_numbers.randrange(4)
    if kind == 0:
        return unicodedata.normalize("NFD", text)
    if kind == 1:
        return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    if kind == 2:
        return "".join(c + "\u00ad" if random_numbers.random() < 0.1 and c.isalpha() else c for c in text)
    for plain, twin in _TWINS.items():
        text = text.replace(plain, twin)
    return text


def change_words(text: str, random_numbers: random.Random, share: float = 0.1) -> str:
    """Replace a share of the words, at least one, by `xq` and a number."""
    parts = re.split(r"(\s+)", text)
    words = [number for number, part in enumerate(parts) if part and not part.isspace()]
    for number in random_numbers.sample(words, max(1, round(len(words) * share))):
        parts[number] = f"xq{random_numbers.randrange(1000)}"
    return "".join(parts)


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "verbatim": lambda text, random_numbers: text,
    "case": change_case,
    "punctuation": change_punctuation,
    "unicode": change_unicode,
    "10 % of the words": change_words,
}


def write_leak(question: str, options: tuple[str, ...], answer: str, passages: tuple[str, ...]) -> str:
    """Return an item as a web page or an abstract would carry it."""
    if passages:
        return "\n".join(f"PART {number}: {passage}" for number, passage in enumerate(passages, start=1))
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCDEFGH", options, strict=False))
    return f"{question}\n{listed}\nAnswer: {answer}"


def plant(leak: str, clean: str, random_numbers: random.Random) -> str:
    """Return a clean text with a leak at a line or sentence boundary."""
    places = [0, *(match.end() for match in re.finditer(r"[.!?]\s|\n", clean)), len(clean)]
    place = random_numbers.choice(places)
    return f"{clean[:place]}\n{leak}\n{clean[place:]}"
