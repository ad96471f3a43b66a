"""The main job on the text bundled with the package: prepare, pretrain, evaluate, and what was gained.

Run by `make demo`; anyone can run it with `python examples/demo.py`. It calls the same three commands a user
would type, prints them, and ends with one table. Its check: after training, held-out bits per byte must be at
least 20 % below those of a unigram model of the same vocabulary, which no amount of knowing single words can do.
With `--shuffle-training-tokens` the order of the training tokens is destroyed first, and the check must fail.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

REQUIRED_GAIN = 0.20
"""Least share by which held-out bits per byte must be below the unigram model's."""


def run_command(*arguments: str) -> dict[str, Any]:
    """Run one `biomedllama` command with its progress in sight and return its JSON report."""
    print(f"\n$ biomedllama {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "biomedllama_cli", *arguments, "--json"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode != 0:
        print(finished.stdout)
        sys.exit(finished.returncode)
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def shuffle_training_tokens(corpus: Path, seed: int = 0) -> None:
    """Destroy the order of the training tokens, document boundaries and token counts kept."""
    from biomedllama_cli.corpus.manifest import load_corpus

    generator = np.random.default_rng(seed)
    eos_id = load_corpus(corpus).manifest.eos_id
    for path in sorted(corpus.glob("train-*.bin")):
        dtype = np.uint16 if load_corpus(corpus).manifest.vocabulary_size <= 65536 else np.int32
        token_ids = np.memmap(path, dtype=dtype, mode="r+")
        inner = np.flatnonzero(token_ids != eos_id)
        token_ids[inner] = generator.permutation(token_ids[inner])
        token_ids.flush()


def main() -> int:
    """Run the three commands and print what was gained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything is written")
    parser.add_argument("--shuffle-training-tokens", action="store_true", help="the negative control")
    parser.add_argument("--max-steps", type=int, default=None, help="train for fewer steps")
    options = parser.parse_args()
    started = time.monotonic()
    corpus, run = options.folder / "corpus", options.folder / "run"
    again = ("--overwrite",)

    prepared = run_command("prepare", "--preset", "demo", "--output-dir", str(corpus), *again)
    if options.shuffle_training_tokens:
        shuffle_training_tokens(corpus)
    steps = () if options.max_steps is None else ("--max-steps", str(options.max_steps))
    pretrained = run_command(
        "pretrain", "--preset", "demo", "--corpus", str(corpus), "--output-dir", str(run),
        "--resume", "never", *steps, *again,
    )  # fmt: skip
    evaluated = run_command(
        "evaluate", "--preset", "demo", "--model", pretrained["checkpoint"],
        "--output-dir", str(options.folder / "evaluation"), *again,
    )  # fmt: skip

    manifest = prepared["manifest"]
    before, after = pretrained["bits_per_byte_before"], pretrained["bits_per_byte_after"]
    unigram = pretrained["bits_per_byte_unigram"]
    gain = 1 - after / unigram
    (cell,) = evaluated["evaluations"][0]["results"]["questions"]
    accuracy = cell["metrics"]["scores"]["acc"]
    low, high = accuracy["interval"]
    program = os.path.relpath(Path(sys.executable).with_name("biomedllama"))
    next_command = f"{program} evaluate --model {pretrained['checkpoint']} --task sample-questions --shots 2"
    print(f"""
What happened, in {time.monotonic() - started:.0f} s
  text          {manifest["documents"]["kept"]} open-access papers, {manifest["tokens"]["train"]:,} training tokens
  held-out bits per byte (lower is better)
    before training            {before:.3f}
    unigram, same vocabulary   {unigram:.3f}
    after training             {after:.3f}   ({gain:+.1%} below the unigram model)
  questions     {accuracy["correct"]} of {accuracy["n"]} right: {accuracy["value"]:.3f} \
(95 % interval {low:.3f} to {high:.3f}; chance is 0.250)
  loss curve    {pretrained["loss_curve"]}
  checkpoint    {pretrained["checkpoint"]}
Next, try: {next_command}""")
    if gain < REQUIRED_GAIN:
        print(
            f"CHECK FAILED: {gain:.1%} below the unigram model, {REQUIRED_GAIN:.0%} wanted", file=sys.stderr
        )
        return 1
    print(f"CHECK PASSED: at least {REQUIRED_GAIN:.0%} below the unigram model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
