"""How fast do texts become token ids, against SentencePiece and Hugging Face tokenizers?

Every contender runs in a process of its own on one core. "cold" is the first pass over the text in that process,
"warm" the better of the next two; seconds are the process's own (CPU time; none of the three starts threads). The
text never runs out of new words (see biomedical_text.py); the curve of new words is part of the result. Ours ends
with bytes ready for a shard; a peer's clock stops at its lists of ids.

    python benchmarks/tokenise.py --data ../shared/data

About ten minutes; with --megabytes 4 --memory-megabytes 20 one. `--vocabulary NAME=FOLDER` adds a tokenizer
folder, such as that of Llama-3 itself; the two byte-level vocabularies measured by default have Llama-3's and
Qwen3's pipelines, and 32,000 pieces trained on the real text.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from biomedical_text import TextStream, load_paragraphs, measure_new_words
from biomedllama_cli.corpus.encoding import encode_documents
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.models.word_cache import WordCache
from report import write_result

OURS = ("ours", "ours without numba")
CONTENDERS = (*OURS, "sentencepiece", "tokenizers")
LENGTHS = (10_000, 100_000, 1_000_000)
SLOW_SECONDS = 60


def measure_passes(
    encode: Callable[[list[str]], Any], texts: list[str], after_first: Callable[[], None]
) -> dict[str, float]:
    """Return MB/s of the first pass over the texts and of the best of the next two."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    seconds: list[float] = []
    for _ in range(3):
        if len(seconds) == 1:
            after_first()
        start = time.process_time()
        for first in range(0, len(texts), 64):
            encode(texts[first : first + 64])
        seconds.append(time.process_time() - start)
    return {"cold": megabytes / seconds[0], "warm": megabytes / min(seconds[1:])}


def measure_lengths(encode: Callable[[list[str]], Any], paragraphs: list[str]) -> dict[str, list[float]]:
    """Return the seconds one document of each of LENGTHS takes, with and without spaces."""
    prose = " ".join(paragraphs)
    kinds = {"prose": prose, "no spaces": "".join(prose.split())}
    result: dict[str, list[float]] = {}
    for name, text in kinds.items():
        result[name] = []
        for length in LENGTHS:
            if result[name] and result[name][-1] > SLOW_SECONDS / 30:
                break  # ten times the text may take a hundred times as long
            start = time.process_time()
            encode([text[:length]])
            result[name].append(time.process_time() - start)
    return result


def run_contender(name: str, folder: str, texts: list[str], paragraphs: list[str]) -> dict[str, Any]:
    """Measure one contender in this process."""
    facts: dict[str, Any] = {}
    cache: Any = None
    if name in OURS:
        tokenizer = load_tokenizer(folder)
        start = time.process_time()
        cache = tokenizer.find_word_cache(np.uint16 if tokenizer.vocabulary_size <= 65536 else np.int32)
        assert cache is not None, f"{folder} has no word cache"
        # Once per process: loading numba and the compiled code, or compiling it the first time.
        type(cache)(cache._codec).encode(["warm up"])
        facts["seconds_to_start"] = time.process_time() - start
        if name == OURS[1]:
            cache = WordCache(cache._codec)

        def encode(batch: list[str]) -> Any:
            return cache.encode(batch)

    elif name == "sentencepiece":
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(Path(folder) / "tokenizer.model"))

        def encode(batch: list[str]) -> Any:
            return processor.encode(batch, num_threads=1)

    else:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))

        def encode(batch: list[str]) -> Any:
            return [e.ids for e in backend.encode_batch_fast(batch, add_special_tokens=False)]

    def note_hits() -> None:
        if cache is not None:
            facts.update(hit_rate=1 - cache.missed / cache.seen, words_kept=len(cache))

    facts["speed"] = measure_passes(encode, texts, note_hits)
    facts["seconds"] = measure_lengths(encode, paragraphs)
    return facts


def run_memory(folder: str, paragraphs: list[str], megabytes: int) -> list[tuple[float, float]]:
    """Return (MB of text encoded so far, MiB of memory at most so far) at 10 MB, 100 MB, ... and the end."""
    tokenizer = load_tokenizer(folder)
    stream = TextStream(paragraphs)
    marks = [10 * 10**k for k in range(9) if 10 * 10**k < megabytes] + [megabytes]
    size, peaks, batch, held = 0, [], [], 0
    for document in stream.iter_documents(megabytes * 1_010_000):
        batch.append(document)
        held += len(document)
        if held < 1 << 20:
            continue
        _, rows = encode_documents(batch, tokenizer, adds_bos=False)
        size += int(rows["bytes"].sum())
        batch, held = [], 0
        while marks and size >= marks[0] * 1_000_000:
            peaks.append((float(marks.pop(0)), read_peak()))
    return peaks


def read_peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def start_child(arguments: argparse.Namespace, contender: str, folder: Path, core: int) -> Any:
    """Measure in a process of its own, on one core, and return its facts."""
    command = [
        sys.executable,
        __file__,
        "--contender",
        contender,
        "--folder",
        str(folder),
        "--core",
        str(core),
    ]
    command += ["--data", str(arguments.data), "--megabytes", str(arguments.megabytes)]
    command += ["--memory-megabytes", str(arguments.memory_megabytes)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def build_vocabularies(data: Path, folder: Path, paragraphs: list[str]) -> dict[str, Path]:
    """Write LLaMA's folder as `prepare` saves it, and two byte-level ones."""
    load_tokenizer(str(data / "tokenizer" / "llama" / "tokenizer.model")).save(folder / "llama")
    path = Path(__file__).resolve().parent.parent / "tests" / "models" / "byte_level.py"
    spec = importlib.util.spec_from_file_location("byte_level", path)
    assert spec is not None
    assert spec.loader is not None
    byte_level = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(byte_level)
    folders = {"LLaMA": folder / "llama"}
    for kind in ("llama3", "qwen3"):
        backend = byte_level.build_backend(kind, paragraphs, 32_000)
        folders[f"{kind} pipeline"] = byte_level.save_backend(backend, folder / kind)
    return folders


def describe(name: str, results: dict[str, Any]) -> list[str]:
    """Return the Markdown of one vocabulary."""
    ours = results["ours"]
    peers = [results[peer]["speed"] for peer in results if peer not in OURS]
    best = {key: max(peer[key] for peer in peers) for key in ("cold", "warm")}
    lines = [f"## {name}", "", "| | cold MB/s | warm MB/s |", "|---|---|---|"]
    for contender, facts in results.items():
        lines.append(f"| {contender} | {facts['speed']['cold']:.2f} | {facts['speed']['warm']:.2f} |")
    for contender in OURS:
        cold, warm = (results[contender]["speed"][key] / best[key] for key in ("cold", "warm"))
        lines.append(f"| {contender} / best of the others | {cold:.2f} | {warm:.2f} |")
    lines += [
        "",
        f"Hit rate of the cold pass {ours['hit_rate']:.4f}; {ours['words_kept']:,} words kept. Loading the compiled "
        f"code and the tables of the vocabulary took {ours['seconds_to_start']:.1f} s before.",
        "",
        "Seconds for one document of " + ", ".join(f"{length:,}" for length in LENGTHS) + " characters:",
        "",
        "| | prose | no spaces |",
        "|---|---|---|",
    ]
    for contender, facts in results.items():
        cells = [" / ".join(f"{s:.3f}" for s in facts["seconds"][kind]) for kind in ("prose", "no spaces")]
        lines.append(f"| {contender} | {cells[0]} | {cells[1]} |")
    return [*lines, ""]


def main() -> None:
    """Run all contenders and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of shared data")
    parser.add_argument("--megabytes", type=int, default=24, help="text for the passes")
    parser.add_argument("--memory-megabytes", type=int, default=1000, help="text for the memory test")
    parser.add_argument("--vocabulary", action="append", default=[], metavar="NAME=FOLDER", help="one more")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    arguments = parser.parse_args()
    paragraphs = load_paragraphs(arguments.data)
    if arguments.contender:
        os.sched_setaffinity(0, {arguments.core})
        if arguments.contender == "memory":
            facts: Any = run_memory(arguments.folder, paragraphs, arguments.memory_megabytes)
        else:
            texts = list(TextStream(paragraphs).iter_documents(arguments.megabytes * 1_000_000))
            facts = run_contender(arguments.contender, arguments.folder, texts, paragraphs)
        print(json.dumps(facts))
        return
    texts = list(TextStream(paragraphs).iter_documents(arguments.megabytes * 1_000_000))
    curve = measure_new_words(texts, 8)
    with tempfile.TemporaryDirectory() as scratch:
        folders = build_vocabularies(arguments.data, Path(scratch), paragraphs)
        folders |= {name: Path(path) for name, _, path in (v.partition("=") for v in arguments.vocabulary)}
        results: dict[str, Any] = {}
        for name, folder in folders.items():
            has_model = (folder / "tokenizer.model").is_file()
            contenders = [c for c in CONTENDERS if c != "sentencepiece" or has_model]
            results[name] = {c: start_child(arguments, c, folder, arguments.core) for c in contenders}
        memory = start_child(arguments, "memory", folders["LLaMA"], arguments.core)
    lines = [
        f"{sum(len(t.encode()) for t in texts) / 1e6:.1f} MB in {len(texts):,} documents drawn from "
        f"{sum(map(len, paragraphs)) / 1e6:.1f} MB of real paragraphs; one word in 25 is made up of the beginning "
        "and the end of two rare real ones and never used twice. Share of new words in each eighth of the text: "
        + ", ".join(f"{share:.1%}" for share in curve)
        + ". One process per contender, all on the same core, one after the other.",
        "",
    ]
    for name, result in results.items():
        lines += describe(name, result)
    lines += [
        "## Memory",
        "",
        "Largest resident memory of a process that encodes such documents (LLaMA):",
        "",
    ]
    lines += [f"- {size:,.0f} MB: {peak:,.0f} MiB" for size, peak in memory]
    write_result("tokenise", lines, {"new_words": curve, "vocabularies": results, "memory": memory})


if __name__ == "__main__":
    main()
