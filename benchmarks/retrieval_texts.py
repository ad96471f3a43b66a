"""Abstracts and queries of `retrieval_recall`, and the candidates among which its settings were chosen."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

from bm25s.stopwords import STOPWORDS_EN_PLUS
from lxml import etree

from biomedllama_cli.chat.retrieval import building, index, terms
from biomedllama_cli.chat.retrieval.index import Index, IndexIdentity, open_index
from biomedllama_cli.chat.retrieval.library import K1, METHOD, B
from biomedllama_cli.tasks.records import iter_records


@dataclass(frozen=True)
class Collection:
    """Abstracts, queries, and the number of each query's own abstract."""

    texts: list[str]
    queries: list[str]
    wanted: list[int]


@dataclass(frozen=True)
class Candidate:
    """One way to find passages; what is not said is the product's."""

    k1: float = K1
    b: float = B
    passage_words: int = 300
    split: Callable[[str], list[str]] = terms.split_words
    asks: bool = False
    stems: bool = True

    def split_question(self, text: str) -> list[str]:
        """Return the words of a query that are looked for."""
        words = self.split(text)
        return words if self.asks else [word for word in words if word not in terms._ASKING] or words


def read_collections(data: Path) -> dict[str, Collection]:
    """Return PubMedQA's questions without and with the abstracts' conclusions, and titles for choosing settings."""
    items = json.loads((data / "pubmedqa" / "ori_pqal_nontest500.json").read_text(encoding="utf-8")).values()
    questions = [item["QUESTION"] for item in items]
    contexts = ["\n".join(item["CONTEXTS"]) for item in items]
    whole = ["\n".join([*item["CONTEXTS"], item["LONG_ANSWER"]]) for item in items]
    ncbi = list(dict.fromkeys(_iter_ncbi(data / "pile")))
    others = list(_iter_jats(data / "jats")) + list(_iter_pubmed(data / "pubmed"))
    titled = [text.split("\n", 1) for text in ncbi if "\n" in text]
    untitled = list(dict.fromkeys(abstract for _, abstract in titled))
    first_with = {abstract: title for title, abstract in reversed(titled)}
    own = list(range(len(questions)))
    return {
        "contexts": Collection(list(dict.fromkeys([*contexts, *ncbi, *others])), questions, own),
        "contexts and conclusion": Collection(list(dict.fromkeys([*whole, *ncbi, *others])), questions, own),
        "titles": Collection(
            [*untitled, *contexts, *others],
            [first_with[abstract] for abstract in untitled],
            list(range(len(untitled))),
        ),
    }


def _iter_ncbi(folder: Path) -> Iterable[str]:
    for file in sorted(folder.glob("*.zst")):
        for record in iter_records(file):
            if record.fields["meta"]["pile_set_name"] == "PubMed Abstracts":
                yield record.fields["text"]


def _iter_jats(folder: Path) -> Iterable[str]:
    for path in sorted(folder.rglob("*xml")):
        for abstract in _parse(path).iterfind("front/article-meta/abstract"):
            if abstract.get("abstract-type") is None:
                yield " ".join("".join(f" {part}" for part in abstract.itertext()).split())


def _iter_pubmed(folder: Path) -> Iterable[str]:
    for path in sorted(folder.glob("*.xml")):
        for abstract in _parse(path).iter("Abstract"):
            yield " ".join("".join(f" {part}" for part in abstract.itertext()).split())


def _parse(path: Path) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    return etree.parse(path, parser).getroot()


def list_candidates(passage_words: int) -> dict[str, Candidate]:
    """Return what was tried, by name; the first is the product's."""
    ours = Candidate(passage_words=passage_words)
    tried = {"the product's": ours}
    for k1, b in ((0.4, 0.9), (0.6, 0.75), (0.9, 0.4), (0.9, 0.9), (1.2, 0.75), (1.5, 0.75), (2.0, 0.75)):
        tried[f"k1 {k1}, b {b}"] = replace(ours, k1=k1, b=b)
    for words in (100, 200, 1000):
        tried[f"passages of {words} words"] = replace(ours, passage_words=words)
    tried |= {
        "no stemmer": replace(ours, stems=False),
        "parts of hyphenated words apart": replace(ours, split=_split_apart),
        "parts of hyphenated words apart and joined": replace(ours, split=_split_both),
        "letters as they are (no Greek names, accents kept)": replace(ours, split=_split_plain),
        "bm25s's longer stop words": replace(ours, split=_leave_out(frozenset(STOPWORDS_EN_PLUS))),
        "words that only ask looked for too": replace(ours, asks=True),
        "words that only ask left out of the texts too": replace(ours, split=_leave_out(terms._ASKING)),
        "pairs of neighbouring words too": replace(ours, split=_split_pairs),
    }
    return tried


def _split_apart(text: str) -> list[str]:
    return terms.split_words(re.sub(r"[-\u2010\u2011\u2013]", " ", text))


def _split_both(text: str) -> list[str]:
    return terms.split_words(text) + [
        part for word in re.findall(r"\w+(?:[-\u2010\u2011\u2013]\w+)+", text) for part in _split_apart(word)
    ]


def _split_plain(text: str) -> list[str]:
    words = terms._WORDS.findall(text.lower())
    return [word.replace("-", "") for word in words if word not in terms._STOP_WORDS]


def _split_pairs(text: str) -> list[str]:
    words = terms.split_words(text)
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _leave_out(stop_words: frozenset[str]) -> Callable[[str], list[str]]:
    return lambda text: [word for word in terms.split_words(text) if word not in stop_words]


class _Unstemmed:
    def find(self, word: str) -> str:
        return word


def rank_variant(
    candidate: Candidate, texts: Sequence[str], queries: Sequence[str], depth: int
) -> list[list[int]]:
    """Return the documents that the product finds when its parts are those of a candidate, best first."""
    identity = IndexIdentity(
        corpus="",
        passage_words=candidate.passage_words,
        terms_version=0,
        stemmer="",
        method=METHOD,
        k1=candidate.k1,
        b=candidate.b,
    )
    with tempfile.TemporaryDirectory() as name, ExitStack() as parts:
        parts.enter_context(patch.object(building, "split_words", candidate.split))
        parts.enter_context(patch.object(index, "split_question", candidate.split_question))
        if not candidate.stems:
            for module in (building, index):
                parts.enter_context(patch.object(module, "Stems", _Unstemmed))
        building.build_index(((text, "") for text in texts), Path(name), identity)
        opened, problem = open_index(Path(name), identity)
        assert isinstance(opened, Index), problem
        return [[hit.row for hit in opened.find(query, depth)] for query in queries]
