"""Any amount of biomedical text whose words do not run out, made from the real text beside the checkout.

The real text is a few megabytes, and a longer stream that only repeats it would soon hold no new word; real
literature does (a new name, number or misspelling every few words). So every document is drawn from the real
paragraphs, and one word in 25 is replaced by one that was never used before: the beginning of one rare real word
and the end of another ("thrombo" + "blastin"). Everything follows from the seed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

NEW_WORD_SHARE = 1 / 25
_STRIDE = 7_368_787  # a prime: steps through all pairs of a beginning and an end


def load_paragraphs(data: Path) -> list[str]:
    """Return the paragraphs of the articles, abstracts and questions in the shared data, in a fixed order."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    paragraphs: list[str] = []
    for path in sorted([*data.glob("jats/plos/*.xml"), *data.glob("jats/*.nxml")]):
        tree = etree.parse(str(path), parser)
        for node in tree.iter("p"):
            paragraphs.append(" ".join("".join(node.itertext()).split()))
    for path in sorted(data.glob("pile/*.jsonl.zst")):
        with path.open("rb") as file:
            lines = zstandard.ZstdDecompressor().stream_reader(file).read().decode("utf-8").splitlines()
        paragraphs += [json.loads(line)["text"] for line in lines]
    for item in json.loads((data / "pubmedqa" / "ori_pqal_nontest500.json").read_text("utf-8")).values():
        paragraphs += [*item["CONTEXTS"], item["LONG_ANSWER"]]
    kept = [text.strip() for text in paragraphs if len(text.split()) >= 20]
    return list(dict.fromkeys(kept))


class TextStream:
    """Endless documents of real paragraphs with new words throughout.

    Args:
        paragraphs: real text.
        seed: of the draw.
    """

    def __init__(self, paragraphs: list[str], seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._paragraphs = [text.split(" ") for text in paragraphs]
        counts = Counter(word for words in self._paragraphs for word in words)
        rare = sorted(w for w, count in counts.items() if count <= 2 and w.isalpha() and 7 <= len(w) <= 14)
        self._known = set(counts)
        self._begins = sorted({word[: len(word) // 2] for word in rare})
        self._ends = sorted({word[len(word) // 2 :] for word in rare})
        self._pairs, self._next = len(self._begins) * len(self._ends), 0

    def draw_document(self, least_characters: int) -> str:
        """Return paragraphs of together at least that many characters."""
        parts: list[str] = []
        size = 0
        while size < least_characters:
            words = list(self._random.choice(self._paragraphs))
            share = len(words) * NEW_WORD_SHARE
            for _ in range(int(share) + (self._random.random() < share % 1)):
                words[self._random.randrange(len(words))] = self._make_word()
            parts.append(" ".join(words))
            size += len(parts[-1])
        return "\n\n".join(parts)

    def draw_length(self) -> int:
        """Return a document length as in The Pile's two medical subsets: abstracts, and some whole articles."""
        return self._random.choice((300, 600, 900, 1200, 1500, 2000, 6000, 25_000))

    def iter_documents(self, characters: int) -> Iterator[str]:
        """Yield documents of together at least that many characters."""
        size = 0
        while size < characters:
            document = self.draw_document(self.draw_length())
            size += len(document)
            yield document

    def _make_word(self) -> str:
        while True:
            place = self._next * _STRIDE % self._pairs
            self._next += 1
            assert self._next < self._pairs, "the stream has used up its words"
            begin, end = divmod(place, len(self._ends))
            word = self._begins[begin] + self._ends[end]
            if word not in self._known:
                return word


def measure_new_words(documents: list[str], parts: int) -> list[float]:
    """Return the share of words never seen before, in each of so many equal parts of the text."""
    seen: set[str] = set()
    total = sum(map(len, documents))
    counts = [[0, 0] for _ in range(parts)]
    position = 0
    for document in documents:
        words = document.split()
        new = set(words) - seen
        seen |= new
        count = counts[min(parts - 1, position * parts // total)]
        count[0] += len(new)
        count[1] += len(words)
        position += len(document)
    return [new / max(1, words) for new, words in counts]


def write_pile(folder: Path, stream: TextStream, *, files: int, bytes_per_file: int) -> dict[str, Any]:
    """Write files as The Pile has them: a tenth of other subsets, one document in a hundred an exact copy.

    Returns:
        number of records, of records of the two PubMed subsets, of different texts among these, and bytes of JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("PubMed Abstracts", "PubMed Central", "StackExchange")
    draw = random.Random(1)
    counts: Counter[str] = Counter()
    earlier = ""
    different: set[int] = set()
    for number in range(files):
        with (folder / f"{number:02d}.jsonl.zst").open("wb") as raw:
            writer = zstandard.ZstdCompressor(level=3).stream_writer(raw)
            size = 0
            while size < bytes_per_file:
                copy = bool(earlier) and draw.random() < 0.01
                text = earlier if copy else stream.draw_document(stream.draw_length())
                earlier = text if draw.random() < 0.05 else earlier
                name = names[2] if draw.random() < 0.1 else names[len(text) > 2500]
                line = json.dumps({"text": text, "meta": {"pile_set_name": name}}).encode() + b"\n"
                writer.write(line)
                size += len(line)
                counts.update({"records": 1, "wanted": name != names[2], "bytes": len(line)})
                if name != names[2]:
                    different.add(hash(text))
            writer.close()
    return {**counts, "different": len(different)}
