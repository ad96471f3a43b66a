"""How fast does The Pile's JSON become token shards, against datatrove and `datasets.map`?

The same files (.jsonl.zst as The Pile has them, see biomedical_text.py) go through

- `biomedllama prepare --subset pubmed`: strict reading, subset, exact duplicates, split, shards with manifest;
- datatrove's own pipeline: JsonlReader, a filter for the subset, DocumentTokenizer;
- `datasets`: load_dataset, filter, a batched map with the fast tokenizer, written as Arrow.

All three use the same vocabulary (LLaMA's; the peers read the tokenizer.json that gives SentencePiece's ids) and one
process on one core; the clock counts from start to exit. The peers do less: neither looks for duplicates. Then
`prepare` runs with one and with two workers on a larger input.

    python benchmarks/prepare_pile.py --data ../shared/data --folder /tmp/prepare-pile

About fifteen minutes on two quiet cores; --megabytes 8 --scaling-megabytes 16 shows that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from biomedical_text import TextStream, load_paragraphs, write_pile
from biomedllama_cli.models.tokenizer import load_tokenizer
from report import write_result

WANTED = ("PubMed Abstracts", "PubMed Central")
FILES = 8


def run_datatrove(inputs: Path, tokenizer: Path, output: Path) -> int:
    """Tokenise with datatrove and return the number of tokens."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    steps = [
        JsonlReader(str(inputs), compression="zstd", glob_pattern="*.jsonl.zst"),
        LambdaFilter(lambda document: document.metadata["meta"]["pile_set_name"] in WANTED),
        DocumentTokenizer(
            str(output / "tokens"),
            tokenizer_name_or_path=str(tokenizer / "tokenizer.json"),
            local_working_dir=str(output / "working"),
            eos_token="</s>",
            shuffle_documents=False,
        ),
    ]
    LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=str(output / "logs")).run()
    return sum(path.stat().st_size for path in (output / "tokens").glob("*.ds")) // 2


def run_datasets(inputs: Path, tokenizer: Path, output: Path) -> int:
    """Tokenise with `datasets.map` and return the number of tokens."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    backend = AutoTokenizer.from_pretrained(tokenizer)
    eos_id = backend.eos_token_id

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = backend(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*document, eos_id] for document in ids]}

    files = [str(path) for path in sorted(inputs.glob("*.jsonl.zst"))]
    dataset = load_dataset("json", data_files=files, split="train", cache_dir=str(output))
    dataset = dataset.filter(lambda record: record["meta"]["pile_set_name"] in WANTED)
    dataset = dataset.map(encode, batched=True, remove_columns=dataset.column_names)
    return sum(len(ids) for batch in dataset.iter(1000) for ids in batch["input_ids"])


def list_prepare_command(inputs: Path, tokenizer: Path, output: Path, workers: int) -> list[str]:
    """Return the command line of `prepare` for the same work."""
    command = [
        sys.executable,
        "-m",
        "biomedllama_cli",
        "prepare",
        "--input",
        str(inputs),
        "--subset",
        "pubmed",
    ]
    command += [
        "--tokenizer",
        str(tokenizer),
        "--bos",
        "never",
        "--decontaminate",
        "off",
        "--near-duplicates",
        "off",
    ]
    return [*command, "--workers", str(workers), "--output-dir", str(output), "--overwrite", "--json"]


def measure(command: list[str], *, one_core: bool) -> dict[str, Any]:
    """Run a command and return its answer, wall seconds and CPU seconds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"TOKENIZERS_PARALLELISM": "false"} if one_core else {}
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        preexec_fn=(lambda: os.sched_setaffinity(0, {0})) if one_core else None,
    )
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    lines = done.stdout.strip().splitlines()
    return {"seconds": time.perf_counter() - start, "cpu": cpu, "answer": done.stdout, "last": lines[-1]}


def read_tokens(output: Path) -> tuple[int, int]:
    """Return (documents, tokens) of a prepared corpus, from its shards."""
    from biomedllama_cli.corpus.shards import load_shard

    shards = [load_shard(path.with_suffix("")) for path in sorted(output.rglob("*.idx"))]
    return sum(len(s.document_starts) - 1 for s in shards), sum(len(s.token_ids) for s in shards)


def compare_peers(inputs: Path, tokenizer: Path, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Run the three on the same files and check that they agree."""
    results: dict[str, Any] = {}
    output = folder / "ours"
    results["biomedllama prepare"] = measure(
        list_prepare_command(inputs, tokenizer, output, 1), one_core=True
    )
    documents, tokens = read_tokens(output)
    assert documents == facts["different"], (
        f"{documents} documents kept of {facts['different']} different ones"
    )
    results["biomedllama prepare"] |= {"documents": documents, "tokens": tokens}
    for peer in ("datatrove", "datasets"):
        output = folder / peer
        shutil.rmtree(output, ignore_errors=True)
        command = [sys.executable, __file__, "--peer", peer, "--inputs", str(inputs)]
        command += ["--tokenizer", str(tokenizer), "--folder", str(output), "--data", "."]
        results[peer] = measure(command, one_core=True)
        results[peer] |= {"documents": facts["wanted"], "tokens": int(results[peer]["last"])}
        shutil.rmtree(output, ignore_errors=True)
    assert results["datatrove"]["tokens"] == results["datasets"]["tokens"] > tokens, (
        "copies are kept by the peers"
    )
    return results


def compare_workers(inputs: Path, tokenizer: Path, folder: Path) -> dict[int, dict[str, Any]]:
    """Run `prepare` with one and with two workers and check that the shards are the same bytes."""
    results = {}
    shards: list[dict[str, bytes]] = []
    for workers in (1, 2):
        output = folder / f"workers-{workers}"
        results[workers] = measure(list_prepare_command(inputs, tokenizer, output, workers), one_core=False)
        shards.append({path.name: path.read_bytes() for path in sorted(output.rglob("*.bin"))})
        shutil.rmtree(output)
    assert shards[0] == shards[1], "the output depends on the number of workers"
    return results


def write_inputs(folder: Path, data: Path, megabytes: int) -> dict[str, Any]:
    """Write the input files unless they are there, and return what is in them."""
    note = folder / "facts.json"
    if not note.is_file():
        stream = TextStream(load_paragraphs(data), seed=megabytes)
        facts = write_pile(folder, stream, files=FILES, bytes_per_file=megabytes * 1_000_000 // FILES)
        note.write_text(json.dumps(facts))
    loaded: dict[str, Any] = json.loads(note.read_text())
    return loaded


def main() -> None:
    """Run all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of shared data")
    parser.add_argument("--folder", type=Path, required=True, help="where to work")
    parser.add_argument("--megabytes", type=int, default=110, help="JSON for the comparison")
    parser.add_argument("--scaling-megabytes", type=int, default=400, help="JSON for one and two workers")
    parser.add_argument("--peer", choices=("datatrove", "datasets"), help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        run = run_datatrove if arguments.peer == "datatrove" else run_datasets
        print(run(arguments.inputs, arguments.tokenizer, arguments.folder))
        return
    folder: Path = arguments.folder
    tokenizer = folder / "tokenizer"
    load_tokenizer(str(arguments.data / "tokenizer" / "llama" / "tokenizer.model")).save(tokenizer)
    small, large = folder / f"pile-{arguments.megabytes}", folder / f"pile-{arguments.scaling_megabytes}"
    facts = write_inputs(small, arguments.data, arguments.megabytes)
    results = compare_peers(small, tokenizer, folder, facts)
    size = facts["bytes"] / 1e6
    ours = results["biomedllama prepare"]["seconds"]
    lines = [
        f"{size:.0f} MB of JSON in {FILES} files, {facts['records']:,} records, {facts['wanted']:,} of the two PubMed "
        f"subsets, {facts['different']:,} of these different. One process on one core, start to exit.",
        "",
        "| | documents | tokens | seconds | CPU seconds | MB/s | ours is faster by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        lines.append(
            f"| {name} | {result['documents']:,} | {result['tokens']:,} | {result['seconds']:.1f} | "
            f"{result['cpu']:.1f} | {size / result['seconds']:.2f} | {result['seconds'] / ours:.2f} |"
        )
    big = write_inputs(large, arguments.data, arguments.scaling_megabytes)
    workers = compare_workers(large, tokenizer, folder)
    ratio = workers[1]["seconds"] / workers[2]["seconds"]
    lines += [
        "",
        f"On {big['bytes'] / 1e6:.0f} MB in {FILES} files: one worker {workers[1]['seconds']:.1f} s, two workers "
        f"{workers[2]['seconds']:.1f} s: {ratio:.2f} times as fast, and the same bytes.",
    ]
    for result in [*results.values(), *workers.values()]:
        del result["answer"]
    write_result(
        "prepare_pile", lines, {"input": facts, "results": results, "workers": workers, "ratio": ratio}
    )


if __name__ == "__main__":
    main()
