"""What decontamination finds, what it flags by mistake, and how fast it reads, beside datatrove's 13-gram filter.

    python benchmarks/decontaminate.py --data ../shared/data --peer-environment FOLDER

FOLDER is a virtual environment with datatrove and the packages its filter wants, made when it does not exist;
without one, only our side is measured. Both sides get the same documents from one file,
each in a process of its own, in turns; loading is not timed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NGRAM = 13


def measure_ours(task: dict[str, Any]) -> dict[str, Any]:
    """Time our search, and count what it flags."""
    from biomedllama_cli.corpus.decontamination.index import load_index
    from biomedllama_cli.corpus.decontamination.screening import find_all_overlaps

    index = load_index(Path(task["index"]))
    return _measure(
        lambda texts: [bool(o) for o in find_all_overlaps(index, [(t, None) for t in texts])], task
    )


def measure_datatrove(task: dict[str, Any]) -> dict[str, Any]:
    """Time datatrove's filter on an index of the same texts, and count what it flags."""
    from datatrove.data import Document
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.utils.text import ngrams, simplify_text

    config = NGramsDecontConfig(n_grams=NGRAM)
    with tempfile.TemporaryDirectory() as folder:
        step = NGramsDecontFilter(folder, config)
        # What its indexer writes, which itself wants lighteval installed: the hashes of all runs of 13 words.
        hashes: set[int] = set()
        for text in task["indexed"]:
            words = step.tokenizer.word_tokenize(simplify_text(text, config.norm_config))
            hashes.update(map(step.hash_func, map(" ".join, ngrams(words, NGRAM))))
        import numpy as np

        np.array(sorted(hashes), dtype=config.hash_config.np_descr).tofile(
            f"{folder}/benchmarks.index.hashes"
        )
        step.load_index_hashes()

    def search(texts: list[str]) -> list[bool]:
        return [step.filter(Document(text=text, id=str(n))) is not True for n, text in enumerate(texts)]

    return _measure(search, task)


def _measure(search: Callable[[list[str]], list[bool]], task: dict[str, Any]) -> dict[str, Any]:
    rates = {}
    for name, texts in task["timed"].items():
        search(texts[:20])
        start = time.perf_counter()
        search(texts)
        rates[name] = sum(len(text.encode()) for text in texts) / (time.perf_counter() - start) / 1e6
    flagged = {name: sum(search(texts)) for name, texts in task["checked"].items()}
    return {"megabytes_per_second": rates, "flagged": flagged}


def run_side(side: str, python: str, file: Path) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [python, __file__, "--side", side, "--file", str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def make_peer(environment: Path) -> str:
    """Return the interpreter of the peer's environment, made on first use."""
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        constraints = ["-c", str(ROOT / "constraints.txt")]
        # Its word splitter, its hash (xxhash 4 no longer takes the text it passes), its patterns.
        wanted = ["datatrove", "spacy", "xxhash<4", "regex"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *constraints, *wanted], check=True)
    return str(python)


def read_clean(data: Path) -> tuple[list[str], list[str]]:
    """Return the abstracts and the articles."""
    from lxml import etree

    from biomedllama_cli.tasks.records import iter_records

    abstracts = [
        record.fields["text"]
        for file in sorted((data / "pile").glob("*.zst"))
        for record in iter_records(file)
        if record.fields["meta"]["pile_set_name"] == "PubMed Abstracts"
    ]
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    papers = [*sorted((data / "jats").glob("*.nxml")), *sorted((data / "jats" / "plos").glob("*.xml"))]
    articles = [
        " ".join("\n".join(etree.parse(paper, parser).getroot().itertext()).split()) for paper in papers
    ]
    return abstracts, articles


def group_items(index: Any) -> dict[str, list[Any]]:
    """Return the testable items by benchmark and by how they are looked for."""
    untestable = {entry.item for entry in index.untestable}
    whole = {int(item) for item, is_whole in zip(index.units.items, index.whole, strict=True) if is_whole}
    groups: dict[str, list[Any]] = {}
    for number, item in enumerate(index.items):
        if number not in untestable:
            short = not item.passages and number in whole
            groups.setdefault(f"{item.benchmark}{', question and answer' * short}", []).append(item)
    return groups


def measure_recall(index: Any, clean: list[str], leaks: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Plant every testable item once per change; return shares found, and the documents by change."""
    from biomedllama_cli.corpus.decontamination.matching import find_overlaps

    draw = random.Random(0)
    recall: dict[str, Any] = {}
    planted: dict[str, list[str]] = {change: [] for change in leaks.CHANGES}
    for group, items in group_items(index).items():
        for change, apply in leaks.CHANGES.items():
            found = 0
            for item in items:
                leak = leaks.write_leak(item.question, item.options, item.answer, item.passages)
                text = leaks.plant(apply(leak, draw), draw.choice(clean), draw)
                planted[change].append(text)
                found += any(
                    (overlap.benchmark, overlap.item_id) == (item.benchmark, item.item_id)
                    for overlap in find_overlaps(index, text)
                )
            recall.setdefault(group, {"items": len(items)})[change] = found / len(items)
    return recall, planted


def measure_mistakes(items: list[Any], clean: dict[str, list[str]], index: Any) -> dict[str, Any]:
    """Return (documents flagged, documents) for texts that hold no item that is looked for.

    Clean texts; PubMedQA's own abstracts against all other items; and, hardest, the vignettes of one half of
    MedQA against an index of the other half, which come from the same exam and share its wording.
    """
    from biomedllama_cli.corpus.decontamination.build import build_index
    from biomedllama_cli.corpus.decontamination.matching import find_overlaps

    mistakes = {
        name: (sum(bool(find_overlaps(index, text)) for text in texts), len(texts))
        for name, texts in clean.items()
    }
    abstracts = [item for item in items if item.passages]
    wrong = sum(
        any(overlap.item_id != item.item_id for overlap in find_overlaps(index, "\n".join(item.passages)))
        for item in abstracts
    )
    mistakes["PubMedQA abstracts, other items"] = (wrong, len(abstracts))
    vignettes = [item for item in items if item.benchmark.startswith("medqa")]
    wrong = 0
    for half in (0, 1):
        other = build_index(vignettes[half::2], [])
        wrong += sum(
            bool(find_overlaps(other, f"{item.question}\n{' '.join(item.options)}"))
            for item in vignettes[1 - half :: 2]
        )
    mistakes["MedQA vignettes of the other half"] = (wrong, len(vignettes))
    return mistakes


def measure_answers(items: Iterable[Any], articles: list[str]) -> dict[str, float]:
    """Return how often an article holds a right answer by chance: anywhere, and within 200 random words."""
    from biomedllama_cli.corpus.decontamination.words import decode_words, split_words

    draw = random.Random(0)
    anywhere = near = pairs = 0
    folded = [split_words(article) for article in articles]
    for item in items:
        answer = f" {decode_words(split_words(item.answer))} "
        for words in folded:
            start = draw.randrange(max(1, len(words) - 200))
            anywhere += answer in f" {decode_words(words)} "
            near += answer in f" {decode_words(words[start : start + 200])} "
            pairs += 1
    return {"anywhere": anywhere / pairs, "within 200 words": near / pairs}


def main() -> None:
    """Measure both sides and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--peer-environment", type=Path, default=None)
    parser.add_argument("--megabytes", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "datatrove"))
    parser.add_argument("--file", type=Path)
    arguments = parser.parse_args()
    if arguments.side:
        measure = measure_ours if arguments.side == "ours" else measure_datatrove
        print(json.dumps(measure(json.loads(arguments.file.read_text()))))
        return
    _compare(arguments)


def _compare(arguments: argparse.Namespace) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "corpus"))
    import leaks

    from biomedllama_cli.corpus.decontamination.build import build_index
    from biomedllama_cli.corpus.decontamination.items import Benchmark, load_items
    from report import write_result

    data = arguments.data
    benchmarks = [
        Benchmark("pubmedqa", data / "pubmedqa" / "ori_pqal_nontest500.json"),
        Benchmark("medqa-5", data / "medqa" / "test_5options_first640.jsonl"),
        Benchmark("medmcqa", data / "medmcqa" / "validation_first120.jsonl"),
    ]
    items, sources = load_items(benchmarks)
    abstracts, articles = read_clean(data)
    with tempfile.TemporaryDirectory() as folder:
        index = build_index(items, sources, Path(folder) / "index")
        recall, planted = measure_recall(index, abstracts, leaks)
        mistakes = measure_mistakes(items, {"abstracts": abstracts, "articles": articles}, index)
        short = group_items(index).get("medmcqa, question and answer", [])
        answers = measure_answers(short, articles)
        checked = {f"planted: {name}": texts for name, texts in planted.items()}
        checked |= {"clean abstracts": abstracts, "clean articles": articles}
        timed = {"abstracts": _repeat(abstracts, arguments), "articles": _repeat(articles, arguments)}
        task = {"index": f"{folder}/index", "timed": timed, "checked": checked}
        task["indexed"] = [text for item in items for text in (item.passages or (item.question,))]
        file = Path(folder) / "task.json"
        file.write_text(json.dumps(task))
        sides = {"ours": sys.executable}
        if arguments.peer_environment:
            sides["datatrove"] = make_peer(arguments.peer_environment)
        rounds = [
            {s: run_side(s, python, file) for s, python in sides.items()} for _ in range(arguments.repeats)
        ]
    facts = {
        "recall": recall,
        "mistakes": mistakes,
        "answers_by_chance": answers,
        "rounds": rounds,
        "checked": {name: len(texts) for name, texts in checked.items()},
        "untestable": Counter(entry.reason for entry in index.untestable),
    }
    write_result("decontaminate", list(_describe(facts, list(timed))), facts)


def _repeat(texts: list[str], arguments: argparse.Namespace) -> list[str]:
    size = sum(len(text.encode()) for text in texts) / 1e6
    return texts * max(1, round(arguments.megabytes / size))


def _describe(facts: dict[str, Any], timed: list[str]) -> Iterable[str]:
    rounds = facts["rounds"]
    best = {
        side: {name: max(r[side]["megabytes_per_second"][name] for r in rounds) for name in timed}
        for side in rounds[0]
    }
    yield f"## Speed, one core, best of {len(rounds)} (MB of UTF-8 per second)\n"
    for name in timed:
        line = ", ".join(f"{side} {rates[name]:.1f}" for side, rates in best.items())
        ratio = f": {best['ours'][name] / best['datatrove'][name]:.1f} times" if "datatrove" in best else ""
        yield f"- {name}: {line}{ratio}"
    yield "\n## Recall of planted items, by change\n"
    changes = [name for name in next(iter(facts["recall"].values())) if name != "items"]
    yield f"| items | | {' | '.join(changes)} |"
    yield "|---" * (len(changes) + 2) + "|"
    for group, row in facts["recall"].items():
        yield f"| {group} | {row['items']} | {' | '.join(f'{row[change]:.4f}' for change in changes)} |"
    yield f"\nNot testable: {dict(facts['untestable'])}."
    yield "\n## Documents flagged that hold no item\n"
    for name, (wrong, documents) in facts["mistakes"].items():
        yield f"- {name}: {wrong} of {documents} ({wrong / documents:.2%})"
    chance = ", ".join(f"{name} {share:.1%}" for name, share in facts["answers_by_chance"].items())
    yield f"- a right answer of a short question stands in an article by chance: {chance}"
    yield "\n## Documents flagged, both sides\n"
    for name, documents in facts["checked"].items():
        line = ", ".join(f"{side} {result['flagged'][name]}" for side, result in rounds[0].items())
        yield f"- {name}, {documents} documents: {line}"


if __name__ == "__main__":
    main()
