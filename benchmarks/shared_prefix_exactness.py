"""The exactness part of benchmarks/shared_prefix.py: our log-likelihoods against plain lm-eval's, item by item.

lm-eval's numbers are kept in the folder and used again for the same weights, texts, versions and precision.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from biomedllama_cli.evaluation.provenance import hash_weights
from harness_rows import Row, build_choice_task
from shared_prefix_arms import Scoring, load_arm, score
from shared_prefix_cells import build_rows, draw_questions

TOLERANCE = 1e-3
"""Largest difference of a log-likelihood (in nats)."""
CLOSE = 2e-3
"""Two best options closer than this (in nats) may change places."""
TASKS = ("medqa-5", "medmcqa", "pubmedqa")
PLAIN_BATCH_SIZE = 2


def measure_exactness(
    start: Scoring, limits: list[int], reference: Path | None
) -> tuple[list[str], dict[str, Any], bool]:
    """Compare all tasks at 0 and at 3 shots; return the report's lines, its facts, and whether all is as wanted.

    Args:
        start: the model, the data, device and precision.
        limits: questions of the three tasks at 0 shots, and of each at 3.
        reference: folder of finished lm-eval runs, `plain-TASK-SHOTS/**/samples_*.jsonl`.
    """
    facts: dict[str, Any] = {}
    *zero_shot, few_shot = limits
    for shots, numbers in ((0, zero_shot), (3, [few_shot] * len(TASKS))):
        for task, number in zip(TASKS, numbers, strict=True):
            rows = build_rows(draw_questions(task, start.place, shots)[:number])
            plain, origin = _find_plain(start, rows, f"{task}-{shots}", reference)
            facts[f"{task}, {shots} shots"] = _compare(rows, plain, _score(start, "ours", rows, 1)) | {
                "lm_eval_numbers": origin
            }
            print(f"{task}, {shots} shots: {facts[f'{task}, {shots} shots']}", flush=True)
    lines = [
        f"{start.model.name}, {start.dtype} on {start.device}, published protocol, context 2048, no BOS; "
        f"the log-likelihoods of lm-eval {version('lm_eval')}, batch {PLAIN_BATCH_SIZE}, and ours.",
        "",
        "| cell | questions | log-likelihoods | largest difference (nats) | other predictions | of these not close |",
        "|---|---|---|---|---|---|",
    ]
    for name, cell in facts.items():
        values = [name, cell["questions"], cell["log_likelihoods"], f"{cell['largest_difference']:.1e}"]
        values += [len(cell["other_predictions"]), len(cell["unexplained"])]
        lines.append(f"| {' | '.join(map(str, values))} |")
    close = [
        f"{name}: {one['id']} ({one['margin']:.1e})" for name, cell in facts.items() for one in cell["close"]
    ]
    lines += [
        "",
        f"Wanted: at most {TOLERANCE} nats, and other predictions only among items whose two best options are "
        f"closer than {CLOSE} nats by lm-eval. These are: {'; '.join(close) or 'none'}.",
    ]
    fine = all(cell["largest_difference"] <= TOLERANCE and not cell["unexplained"] for cell in facts.values())
    return lines, {"dtype": start.dtype, "device": start.device, "cells": facts}, fine


def _compare(rows: list[Row], plain: list[list[float]], ours: list[list[float]]) -> dict[str, Any]:
    close, other, unexplained = [], [], []
    largest = 0.0
    for row, theirs, mine in zip(rows, plain, ours, strict=True):
        largest = max(largest, *(abs(a - b) for a, b in zip(theirs, mine, strict=True)))
        best, second = sorted(theirs, reverse=True)[:2]
        if best - second < CLOSE:
            close.append({"id": row.id, "margin": best - second})
        if theirs.index(max(theirs)) != mine.index(max(mine)):
            other.append(row.id)
            if best - second >= CLOSE:
                unexplained.append(row.id)
    return {
        "questions": len(rows),
        "log_likelihoods": sum(map(len, plain)),
        "largest_difference": largest,
        "other_predictions": other,
        "unexplained": unexplained,
        "close": close,
    }


def _score(start: Scoring, arm: str, rows: list[Row], batch_size: int) -> list[list[float]]:
    task = build_choice_task("exactness", rows)
    task.build_all_requests()
    lm = load_arm(arm, Scoring(**{**vars(start), "batch_size": batch_size}), protocol=True)
    _, values = score(lm, task.instances)
    numbers = iter(values)
    return [[next(numbers) for _ in row.continuations] for row in rows]


def _find_plain(
    start: Scoring, rows: list[Row], name: str, reference: Path | None
) -> tuple[list[list[float]], str]:
    """Return lm-eval's numbers, and whether they were given, kept or computed now."""
    if reference is not None and (found := _read_reference(reference / f"plain-{name}", rows)) is not None:
        return found, "given"
    identity = {
        "weights": hash_weights(start.model),
        "rows": [[row.context, *row.continuations] for row in rows],
        "versions": {package: version(package) for package in ("torch", "transformers", "lm_eval")},
        "precision": [start.device, start.dtype, PLAIN_BATCH_SIZE],
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = start.place.folder / f"lm-eval-{name}-{key}.json"
    if path.is_file():
        kept: list[list[float]] = json.loads(path.read_text())
        return kept, "kept"
    values = _score(start, "lm-eval", rows, PLAIN_BATCH_SIZE)
    path.write_text(json.dumps(values))
    return values, "computed"


def _read_reference(folder: Path, rows: list[Row]) -> list[list[float]] | None:
    """Return the numbers of a finished run of lm-eval's command line if it scored exactly these texts, else None."""
    files = sorted(folder.rglob("samples_*.jsonl"))
    if not files:
        return None
    with files[-1].open(encoding="utf-8") as lines:
        samples = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    values = []
    for row, sample in zip(rows, samples, strict=False):
        texts = [(arguments["arg_0"], arguments["arg_1"]) for arguments in sample["arguments"].values()]
        if texts != [(row.context, continuation) for continuation in row.continuations]:
            print(
                f"{files[-1]}: item {sample['doc_id']} has other texts; lm-eval scores them again", flush=True
            )
            return None
        values.append([float(response[0][0]) for response in sample["resps"]])
    return values if len(values) == len(rows) else None
