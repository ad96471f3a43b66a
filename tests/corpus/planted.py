"""Pairs of texts whose similarity is known: originals, and copies edited a little or a lot."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import zstandard
from lxml import etree

SHARES = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.12)
"""Shares of words changed; a changed word breaks five shingles."""


def find_shingles(text: str) -> set[tuple[str, ...]]:
    """Return the word 5-grams of a text, without case, diacritics and punctuation."""
    folded = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words = re.findall(r"[^\W_]+", folded.casefold())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def compute_jaccard(one: str, other: str) -> float:
    """Return the share of word 5-grams that two texts have in common."""
    a, b = find_shingles(one), find_shingles(other)
    return len(a & b) / len(a | b)


def change_words(text: str, share: float, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """Replace, remove and insert words all over a text."""
    words = text.split()
    for _ in range(max(1, round(len(words) * share))):
        place, draw = rng.randrange(len(words)), rng.random()
        if draw < 0.6:
            words[place] = rng.choice(vocabulary)
        elif draw < 0.8:
            del words[place]
        else:
            words.insert(place, rng.choice(vocabulary))
    return " ".join(words)


def cut_off(text: str, share: float, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """Leave out the end of a text, five times the share."""
    words = text.split()
    return " ".join(words[: max(5, round(len(words) * (1 - 5 * share)))])


def plant_pairs(originals: Sequence[str], copies: int, seed: int) -> Iterator[tuple[float, str, str]]:
    """Yield (Jaccard similarity, original, copy) with all degrees of change; each original `copies` times."""
    rng = random.Random(seed)
    vocabulary = sorted({word for text in originals for word in text.split()})
    ways: tuple[Callable[..., str], ...] = (change_words, cut_off)
    for text in originals:
        for _ in range(copies):
            changed = rng.choice(ways)(text, rng.choice(SHARES), rng, vocabulary)
            yield compute_jaccard(text, changed), text, changed


def make_texts(count: int, words: int, seed: int) -> list[str]:
    """Return texts of made-up words, as often used as words are (Zipf's law)."""
    rng = random.Random(seed)
    syllables = ["ka", "lo", "mi", "ter", "pha", "gen", "ose", "ry", "bin", "ax", "ull", "que"]
    vocabulary = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(4000)]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    return [" ".join(rng.choices(vocabulary, weights, k=words)) for _ in range(count)]


def read_abstracts(data: Path, count: int) -> list[str]:
    """Return real abstracts of some 200 words."""
    lines = zstandard.ZstdDecompressor().stream_reader((data / "pile" / "00.jsonl.zst").read_bytes()).read()
    texts = [record["text"] for record in map(json.loads, lines.splitlines())]
    return list(dict.fromkeys(text for text in texts if 120 <= len(text.split()) <= 350))[:count]


def read_articles(data: Path, count: int) -> list[str]:
    """Return the bodies of real articles of some 5000 words."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False)
    texts = []
    for path in sorted((data / "jats" / "plos").glob("*.xml")):
        body = etree.parse(path, parser).find(".//body")
        text = " ".join(" ".join(body.itertext()).split()) if body is not None else ""
        if len(text.split()) >= 3000:
            texts.append(text)
        if len(texts) == count:
            break
    return texts
