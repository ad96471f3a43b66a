"""Find the abstract that a question was written about: `chat --corpus` against bm25s as it comes.

500 questions of PubMedQA, each against its own abstract among all abstracts of the shared data. The abstracts become a
corpus by `prepare` with LLaMA's tokenizer, and are read back from it by both sides, so the measured thing is the
product's. No title is given: PubMedQA's question is mostly the title. PubMedQA's abstracts are their contexts; their
conclusion (LONG_ANSWER), which often repeats the question, is added in a measurement of its own.

Settings are chosen on other queries: the titles of the NCBI abstracts against their abstracts without titles
(`--choose` shows the candidates). `--scale N` measures time, memory and size on N made-up abstracts instead.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from biomedllama_cli.chat.retrieval.library import Library
from biomedllama_cli.corpus.manifest import RETRIEVAL_FOLDER
from biomedllama_cli.evaluation.paired import mcnemar_test
from biomedllama_cli.evaluation.statistics import wilson_interval
from biomedllama_cli.recipes.prepare import prepare
from biomedllama_cli.settings.chat import SourceSettings
from biomedllama_cli.settings.prepare import PrepareSettings
from retrieval_texts import Collection, list_candidates, rank_variant, read_collections

ROOT = Path(__file__).resolve().parent.parent
DEPTH = 100
PASSAGE_WORDS = SourceSettings().passage_words


def prepare_corpus(texts: Sequence[str], folder: Path, tokenizer: Path) -> Path:
    """Make a corpus of texts; nothing is left out but exact copies."""
    folder.mkdir()
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    (folder / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    off = dict.fromkeys(("language_filter", "quality_filter", "near_duplicates"), "off")
    settings = {
        "output_dir": folder / "corpus",
        "source": {"source": ("text",), "input": (str(folder / "texts.jsonl"),)},
        "selection": {"licences": "all", **off},
        "tokenization": {"tokenizer": str(tokenizer)},
    }
    prepare(PrepareSettings.model_validate(settings))
    return folder / "corpus"


def rank_ours(library: Library, queries: Sequence[str]) -> list[list[int]]:
    """Return the documents found for every query, best first; their passages are not read."""
    return [[hit.row for hit in library.index.find(query, DEPTH)] for query in queries]


def rank_default(texts: Sequence[str], queries: Sequence[str]) -> list[list[int]]:
    """Return the documents that bm25s finds with its own tokeniser, English stop words and parameters."""
    import bm25s

    scorer = bm25s.BM25()
    scorer.index(bm25s.tokenize(list(texts), stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(queries), stopwords="en", show_progress=False)
    found, scores = scorer.retrieve(tokens, k=DEPTH, show_progress=False)
    return [row[score > 0].tolist() for row, score in zip(found, scores, strict=True)]


def rate(found: Sequence[Sequence[int]], wanted: Sequence[int]) -> dict[str, Any]:
    """Return recall at 1 and 3 with Wilson intervals, the mean reciprocal rank, and who was found first."""
    ranks = [row.index(own) + 1 if own in row else None for row, own in zip(found, wanted, strict=True)]
    first = [rank == 1 for rank in ranks]
    third = [rank is not None and rank <= 3 for rank in ranks]
    return {
        "n": len(ranks),
        "recall_at_1": statistics.mean(first),
        "recall_at_1_interval": wilson_interval(sum(first), len(first)),
        "recall_at_3": statistics.mean(third),
        "recall_at_3_interval": wilson_interval(sum(third), len(third)),
        "mean_reciprocal_rank": statistics.mean(1 / rank if rank else 0.0 for rank in ranks),
        "first": first,
    }


def measure(collection: Collection, folder: Path, tokenizer: Path) -> dict[str, Any]:
    """Measure both sides on one collection."""
    corpus = prepare_corpus(collection.texts, folder, tokenizer)
    start = time.perf_counter()
    library = Library.open(corpus, passage_words=PASSAGE_WORDS)
    build_seconds = time.perf_counter() - start
    texts = [text for text, _ in library.stored.iter_texts()]
    places = {text: number for number, text in enumerate(texts)}
    missing = [text for text in collection.texts if text not in places]
    assert not missing, (
        f"{len(missing)} texts do not come back from the corpus as they were: {missing[0][:80]!r}"
    )
    wanted = [places[collection.texts[number]] for number in collection.wanted]
    sides = {
        "default": rate(rank_default(texts, collection.queries), wanted),
        "ours": rate(rank_ours(library, collection.queries), wanted),
    }
    pairs = list(zip(sides["default"].pop("first"), sides["ours"].pop("first"), strict=True))
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    return {
        "abstracts": library.documents,
        "passages": library.passages,
        "tokens_round_trip": "every text decoded to what it was",
        **sides,
        "paired": {"only_default": lost, "only_ours": won, "mcnemar_p": mcnemar_test(lost, won)},
        **measure_speed(library, collection.queries),
        "build_seconds": round(build_seconds, 2),
    }


def measure_speed(library: Library, queries: Sequence[str]) -> dict[str, Any]:
    """Return how long questions take, passages read back included, and how large the index is."""
    took = []
    for query in queries:
        start = time.perf_counter()
        library.search(query, SourceSettings().passages)
        took.append((time.perf_counter() - start) * 1000)
    files = [path for path in (library.corpus / RETRIEVAL_FOLDER).rglob("*") if path.is_file()]
    return {
        "median_milliseconds": round(statistics.median(took), 2),
        "slowest_milliseconds": round(max(took), 2),
        "index_bytes": sum(path.stat().st_size for path in files),
        "text_bytes": sum(len(text.encode()) for text, _ in library.stored.iter_texts()),
    }


def measure_scale(abstracts: int, data: Path, folder: Path, tokenizer: Path) -> dict[str, Any]:
    """Measure a corpus of made-up abstracts: shuffled sentences, and now and then a word nobody used before."""
    collection = read_collections(data)["contexts"]
    sentences = sorted(
        {part for text in collection.texts for part in text.replace("\n", " ").split(". ") if part}
    )
    draw = random.Random(0)
    texts = []
    for number in range(abstracts):
        new = f"Sample {number:x} of series q{draw.randrange(1 << 40):x}. "
        texts.append(new + ". ".join(draw.choices(sentences, k=9)) + ".")
    corpus = prepare_corpus(texts, folder, tokenizer)
    del texts
    memory, done = [read_memory()], threading.Event()
    watch = threading.Thread(target=watch_memory, args=(memory, done))
    watch.start()
    start = time.perf_counter()
    library = Library.open(corpus, passage_words=PASSAGE_WORDS)
    seconds = time.perf_counter() - start
    done.set()
    watch.join()
    speed = measure_speed(library, collection.queries[:100])
    return {
        "abstracts": library.documents,
        "passages": library.passages,
        "terms": library.index.meta.terms,
        "blocks": library.index.meta.blocks,
        "build_seconds": round(seconds, 1),
        "megabytes_per_second": round(speed["text_bytes"] / seconds / 1e6, 2),
        "memory_before_mib": memory[0],
        "memory_most_mib": max(memory),
        **speed,
    }


def read_memory() -> int:
    """Return this process's own memory in MiB, without the pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon"))


def watch_memory(memory: list[int], done: threading.Event) -> None:
    """Note the memory ten times a second until it is done."""
    while not done.wait(0.1):
        memory.append(read_memory())


def choose(data: Path, folder: Path, tokenizer: Path) -> dict[str, Any]:
    """Rate the candidates on titles of abstracts, none of them a question that is reported."""
    collection = read_collections(data)["titles"]
    corpus = prepare_corpus(collection.texts, folder, tokenizer)
    library = Library.open(corpus, passage_words=PASSAGE_WORDS)
    texts = [text for text, _ in library.stored.iter_texts()]
    places = {text: number for number, text in enumerate(texts)}
    wanted = [places[collection.texts[number]] for number in collection.wanted]
    ranked: dict[str, Callable[[], list[list[int]]]] = {
        "bm25s as it comes": lambda: rank_default(texts, collection.queries)
    }
    for name, candidate in list_candidates(PASSAGE_WORDS).items():
        ranked[name] = lambda candidate=candidate: rank_variant(candidate, texts, collection.queries, DEPTH)
    rated = {name: rate(rank(), wanted) for name, rank in ranked.items()}
    for facts in rated.values():
        del facts["first"]
    return rated


def describe(results: dict[str, Any]) -> list[str]:
    """Return the tables."""
    lines = [
        "| PubMedQA's abstracts | side | recall@1 | recall@3 | MRR | only this side, p |",
        "|---|---|---|---|---|---|",
    ]
    for name, facts in results["questions"].items():
        for side in ("default", "ours"):
            rated, paired = facts[side], facts["paired"]
            low, high = rated["recall_at_1_interval"]
            lines.append(
                f"| {name} | {side} | {rated['recall_at_1']:.3f} ({low:.3f} to {high:.3f}) | "
                f"{rated['recall_at_3']:.3f} | {rated['mean_reciprocal_rank']:.4f} | "
                f"{paired[f'only_{side}']}, p = {paired['mcnemar_p']:.3f} |"
            )
    facts = next(iter(results["questions"].values()))
    lines += [
        "",
        f"{facts['default']['n']} questions among {facts['abstracts']:,} abstracts ({facts['passages']:,} passages); "
        f"index built in {facts['build_seconds']} s, {facts['index_bytes'] / facts['text_bytes']:.2f} bytes for a byte "
        f"of text; a question takes {facts['median_milliseconds']} ms (slowest {facts['slowest_milliseconds']} ms).",
        "",
        "Candidates, on titles of abstracts:",
        "",
        "| candidate | recall@1 | recall@3 | MRR |",
        "|---|---|---|---|",
    ]
    for name, rated in results["candidates"].items():
        figures = (
            f"{rated['recall_at_1']:.3f} | {rated['recall_at_3']:.3f} | {rated['mean_reciprocal_rank']:.4f}"
        )
        lines.append(f"| {name} | {figures} |")
    return lines


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--choose", action="store_true", help="only rate the candidates, and write nothing")
    parser.add_argument("--scale", type=int, help="only measure so many made-up abstracts, and write nothing")
    options = parser.parse_args()
    tokenizer = options.data / "tokenizer" / "llama"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.scale:
            print(
                json.dumps(measure_scale(options.scale, options.data, folder / "scale", tokenizer), indent=1)
            )
            return
        results: dict[str, Any] = {
            "questions": {},
            "candidates": choose(options.data, folder / "titles", tokenizer),
        }
        if not options.choose:
            for kind in ("contexts", "contexts and conclusion"):
                collection = read_collections(options.data)[kind]
                results["questions"][kind] = measure(collection, folder / kind.replace(" ", "-"), tokenizer)
    if options.choose:
        print(json.dumps(results["candidates"], indent=1))
        return
    from report import write_result

    write_result("retrieval_recall", describe(results), results)


if __name__ == "__main__":
    main()
