"""Is the memory that `pretrain --dry-run` predicts the memory that the run takes?

For some shapes and settings the plan's total is held against the highest resident memory of the run itself, a process
of its own on the CPU that trains two steps, validates and saves; everything is counted, libraries included. The
corpus is the bundled sample.

    python benchmarks/pretrain_memory.py --folder /tmp/pretrain-memory

Two cores, a few minutes; Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

WANTED = 0.1
ARMS: tuple[tuple[str, ...], ...] = (
    ("--model=scratch:15m", "--micro-batch-size=4", "--precision=fp32"),
    ("--model=scratch:15m", "--micro-batch-size=4", "--precision=bf16"),
    ("--model=scratch:15m", "--micro-batch-size=4", "--precision=fp32", "--activation-checkpointing=full"),
    ("--model=scratch:110m", "--micro-batch-size=1", "--precision=fp32"),
    ("--model=scratch:110m", "--micro-batch-size=1", "--precision=bf16"),
    ("--model=scratch:15m", "--micro-batch-size=8", "--precision=bf16"),
    ("--model=scratch:15m", "--micro-batch-size=2", "--precision=bf16", "--sequence-length=2048"),
    ("--model=scratch:15m", "--micro-batch-size=4", "--precision=fp32", "--sequence-length=1024",
     "--global-batch-size=4"),
    ("--model=scratch:110m", "--micro-batch-size=2", "--precision=bf16", "--sequence-length=1024"),
    ("--model=scratch:110m", "--micro-batch-size=1", "--precision=bf16", "--global-batch-size=1"),
    ("--model=scratch:110m", "--micro-batch-size=2", "--precision=bf16", "--loss-memory=plain",
     "--sequence-length=1024", "--global-batch-size=2"),
    ("--model=scratch:15m", "--micro-batch-size=4", "--precision=fp32", "--activation-checkpointing=selective"),
    ("--model=scratch:15m", "--micro-batch-size=4", "--precision=bf16", "--activation-checkpointing=selective"),
    ("--model=scratch:15m", "--micro-batch-size=4", "--precision=bf16", "--activation-checkpointing=full"),
    ("--model=scratch:110m", "--micro-batch-size=2", "--precision=bf16", "--sequence-length=1024",
     "--activation-checkpointing=selective"),
    ("--model=scratch:110m", "--micro-batch-size=2", "--precision=bf16", "--sequence-length=1024",
     "--activation-checkpointing=full"),
)  # fmt: skip
COMMON = ("--sequence-length=512", "--global-batch-size=8", "--max-steps=2", "--validation-sequences=8")


def run(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Run the command line and return its report, with the most memory that the process took."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.dup2(write, 1)
        command = [sys.executable, "-m", "biomedllama_cli", *arguments, "--json"]
        os.execv(sys.executable, command)
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return {**json.loads(text), "peak": usage.ru_maxrss * 1024}


def prepare_corpus(workspace: Path) -> None:
    """Prepare the bundled sample."""
    command = [sys.executable, "-m", "biomedllama_cli", "prepare", "--preset", "demo", "--workspace"]
    subprocess.run([*command, str(workspace)], check=True)


def main() -> None:
    """Measure every arm and print how far off its plan was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--no-result", action="store_true", help="print alone")
    options = parser.parse_args()
    folder = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    prepare_corpus(folder)
    found = []
    for number, arm in enumerate(ARMS):
        arguments = (
            "pretrain",
            f"--workspace={folder}",
            f"--output-dir={folder / str(number)}",
            *COMMON,
            *arm,
        )
        memory = run((*arguments, "--dry-run"))["plan"]["memory"]
        peak = run(arguments)["peak"]
        found.append(
            {"arm": arm, "predicted": memory["total"], "measured": peak, "off": memory["total"] / peak - 1}
        )
        print(json.dumps(found[-1]), flush=True)
    worst = max(abs(one["off"]) for one in found)
    if options.no_result:
        return
    from report import write_result

    lines = ["| settings | planned, MiB | measured, MiB | off |", "|---|---|---|---|"]
    lines += [
        f"| `{' '.join(one['arm'])}` | {one['predicted'] / 2**20:,.0f} | {one['measured'] / 2**20:,.0f} "
        f"| {one['off']:+.1%} |"
        for one in found
    ]
    lines += ["", f"Furthest off: {worst:.1%}; wanted: at most {WANTED:.0%}. Common: `{' '.join(COMMON)}`."]
    write_result("pretrain_memory", lines, {"worst": worst, "wanted": WANTED, "arms": found})


if __name__ == "__main__":
    main()
