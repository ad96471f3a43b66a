"""SIGKILL `pretrain` at random moments, start it again, and hold its weights against an undisturbed run's.

`python benchmarks/kill_pretrain.py --runs 100` writes a dated result; the tests do `--runs 6 --result FILE`. This
process imports everything once and forks for each start, so that a start takes a second. A run is killed one to four
times: at a random moment of it, or while a checkpoint is being written; all its processes, or one of its ranks first,
and then the rest, since a rank that is gone leaves the others waiting. After every kill each checkpoint that is marked
complete must be whole, and every start must go on from the newest of them; in the end weights, optimizer states and
losses must be those of a run that nobody disturbed, bit for bit, and the certificate must say that every sequence was
fed once. Layers are not compiled, and one machine is all that is killed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forked_starts import LONGEST_SECONDS, read_output, start, wait_for

STEPS = 12
MOST_KILLS = 4
WAYS = {
    "one process": (1, "full", False),
    "one process, saving behind": (1, "full", True),
    "two ranks": (2, "full", False),
    "two ranks, saving behind": (2, "full", True),
    "two ranks, hybrid-zero2, saving behind": (2, "hybrid-zero2", True),
    "two ranks, replicate": (2, "replicate", False),
}
"""Processes, --sharding, and whether a thread writes the checkpoints."""
_MOST_TRIES = 10
_WORDS = ["".join(random.Random(i).choices("abcdefghilmnoprstuv", k=5)) for i in range(400)]
_RESUMED = "resumed_step"


@dataclass(frozen=True)
class Kill:
    """One kill of a run.

    Attributes:
        when: `any` moment, or while `saving`.
        who: `all` processes, or one `rank` first.
        seconds: after the start.
        step: newest complete checkpoint at that time, or None.
    """

    when: str
    who: str
    seconds: float
    step: int | None


@dataclass
class Run:
    """What became of one run.

    Attributes:
        seed: of all that was drawn.
        way: how it was started.
        kills: those that came before its end.
        starts: step that each start of the last try went on from, of those that came so far; 0 is a fresh one.
        problems: what was not as it must be; empty where the run survived.
    """

    seed: int
    way: str
    kills: list[Kill] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Material:
    """A corpus, and what undisturbed runs give."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = folder / "corpora" / "text"
        self._expected: dict[tuple[int, str], tuple[dict[str, str], float]] = {}
        source = folder / "text.jsonl"
        texts = [" ".join(random.Random(number).choices(_WORDS, k=120)) for number in range(60)]
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        options = ["--input", str(source), "--vocabulary-size", "300", "--output-dir", str(self.corpus)]
        code = wait_for(start(["prepare", *options], 1, folder / "prepare"))
        if code != [0]:
            raise RuntimeError(f"prepare ended with {code}: {read_output(folder / 'prepare')}")

    def arguments(self, output: Path, way: str) -> list[str]:
        """Return the command line of a run of 12 steps with a checkpoint after each."""
        ranks, sharding, is_behind = WAYS[way]
        line = ["pretrain", "--json", "--corpus", str(self.corpus), "--output-dir", str(output)]
        line += ["--sharding", sharding]
        line += ["--model", "scratch:tiny", "--device", "cpu", "--precision", "fp32", "--general", "none"]
        line += ["--sequence-length", "32", "--micro-batch-size", str(4 // ranks), "--global-batch-size", "8"]
        line += [
            "--max-steps",
            str(STEPS),
            "--epochs",
            "9",
            "--peak-learning-rate",
            "1e-2",
            "--data-workers",
            "0",
        ]
        line += ["--save-every-steps", "1", "--validate-every-steps", "5", "--keep-checkpoints", "2"]
        return [*line, "--save-in-background" if is_behind else "--no-save-in-background"]

    def expected(self, way: str) -> tuple[dict[str, str], float]:
        """Return hashes of what an undisturbed run leaves, and how long it took (in seconds)."""
        ranks, sharding, _ = WAYS[way]
        if (ranks, sharding) not in self._expected:
            output, began = self.folder / f"expected-{ranks}-{sharding}", time.monotonic()
            said = self.folder / f"said-{ranks}-{sharding}"
            codes = wait_for(start(self.arguments(output, way), ranks, said))
            if codes != [0] * ranks:
                raise RuntimeError(f"the undisturbed run ended with {codes}: {read_output(said)}")
            self._expected[ranks, sharding] = hash_result(output), time.monotonic() - began
        return self._expected[ranks, sharding]


def kill_and_finish(material: Material, output: Path, seed: int) -> Run:
    """Start a run, kill it some times, let it end, and look at it."""
    draw, run = random.Random(seed), Run(seed, list(WAYS)[seed % len(WAYS)])
    ranks = WAYS[run.way][0]
    _, seconds = material.expected(run.way)
    arguments, said = material.arguments(output, run.way), output.with_name("said")
    wanted = draw.randint(1, MOST_KILLS)
    for _ in range(_MOST_TRIES):
        newest = find_newest(output)
        kill = kill_at_random(start(arguments, ranks, said), output, draw, seconds)
        if kill is None and run.kills:
            break
        if kill is None:  # it had ended before it was killed: another one is
            shutil.rmtree(output)
            run.starts.clear()
            continue
        run.kills.append(kill)
        run.problems += list_broken_checkpoints(output) + look_at_start(output, run.starts, newest)
        if len(run.kills) == wanted:
            break
    newest = find_newest(output)
    codes = wait_for(start(arguments, ranks, said))
    if set(codes) != {0}:
        run.problems.append(f"the last start ended with {codes}: {read_output(said)}")
        return run
    report = json.loads(Path(f"{said}.0.1").read_text())
    if report["status"] == "trained":
        if report[_RESUMED] != newest:
            run.problems.append(f"the last start went on from {report[_RESUMED]}, not from {newest}")
        run.problems += look_at_start(output, run.starts, newest)
    run.problems += compare(hash_result(output), material.expected(run.way)[0])
    run.problems += certify(output, said)
    return run


def kill_at_random(process_ids: list[int], output: Path, draw: random.Random, seconds: float) -> Kill | None:
    """Kill the processes of a start at a drawn moment; None where they had ended before."""
    began, when = time.monotonic(), draw.choice(("any", "saving"))
    if when == "any":
        moment = began + draw.uniform(0.0, 1.1 * seconds)
        is_time: Callable[[], bool] = lambda: time.monotonic() >= moment  # noqa: E731
    else:
        wanted, seen = draw.randint(1, STEPS // 2), set[str]()
        is_time = lambda: count_drafts(output, seen) >= wanted  # noqa: E731
    codes: dict[int, int] = {}
    while not is_time() and len(codes) < len(process_ids):
        for process_id in set(process_ids) - set(codes):
            found, status = os.waitpid(process_id, os.WNOHANG)
            if found:
                codes[process_id] = os.waitstatus_to_exitcode(status)
        if time.monotonic() - began > LONGEST_SECONDS:
            break
        time.sleep(0.0002)
    left = [process_id for process_id in process_ids if process_id not in codes]
    if not left:
        return None
    if when == "saving":
        time.sleep(draw.uniform(0.0, 0.02))
    who = draw.choice(("all", "rank")) if len(left) > 1 else "all"
    if who == "rank":
        draw.shuffle(left)
        os.kill(left[0], signal.SIGKILL)
        time.sleep(draw.uniform(0.0, 0.3))
    for process_id in left[1 if who == "rank" else 0 :]:
        os.kill(process_id, signal.SIGKILL)
    took = time.monotonic() - began
    for process_id in left:
        os.waitpid(process_id, 0)
    return Kill(when, who, took, find_newest(output))


def look_at_start(output: Path, known: list[int], newest: int | None) -> list[str]:
    """Return whether a start, where it came as far as its first step, went on from the newest checkpoint there was.

    Args:
        output: the run folder, whose log of sequences names every start.
        known: the starts that were there before; the new one is added.
        newest: step of the newest complete checkpoint before that start.
    """
    from biomedllama_cli.engine.sequence_frames import SEQUENCE_LOG, Start, read_frames

    log = output / SEQUENCE_LOG
    found = [frame.step for frame in read_frames(log) if isinstance(frame, Start)] if log.exists() else []
    if found[: len(known)] != known:
        return [f"the log knew of starts after {known}, and now of those after {found}"]
    fresh, known[:] = found[len(known) :], found
    wrong = [step for step in fresh if step != (newest or 0)]
    return [f"a start went on from {step}, not from {newest}" for step in wrong]


def count_drafts(output: Path, seen: set[str]) -> int:
    """Return how many checkpoints have been begun since the first look."""
    seen |= {path.name for path in (output / "checkpoints").glob(".step-*")}
    return len(seen)


def find_newest(output: Path) -> int | None:
    """Return the step of the newest checkpoint that is marked complete."""
    from biomedllama_cli.engine.saved_runs import find_checkpoint, read_step

    found = find_checkpoint(output)
    return None if found is None else read_step(found)


def list_broken_checkpoints(output: Path) -> list[str]:
    """Return what is wrong with checkpoints that are marked complete: every tensor of every file is read."""
    from safetensors import SafetensorError, safe_open

    from biomedllama_cli.engine.saved_runs import list_checkpoints

    problems = []
    for checkpoint in list_checkpoints(output):
        files = sorted(checkpoint.rglob("*.safetensors"))
        if not files:
            problems.append(f"{checkpoint.name} is marked complete and has no tensors")
        for file in files:
            try:
                with safe_open(file, "numpy") as tensors:
                    for name in tensors.keys():  # noqa: SIM118  # it is no mapping
                        tensors.get_tensor(name)
            except (OSError, SafetensorError) as error:
                problems.append(f"{checkpoint.name} is marked complete, but {file.name} is not: {error}")
    return problems


def hash_result(output: Path) -> dict[str, str]:
    """Return a hash of every file of tensors of the last checkpoint, and of all losses."""
    last = output / "checkpoints" / f"step-{STEPS:08d}"
    files = sorted(last.rglob("*.safetensors"))
    hashes = {str(file.relative_to(last)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    return hashes | {"losses": json.dumps(losses)}


def compare(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Return what differs from an undisturbed run."""
    return [
        f"{name} is not that of an undisturbed run" for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]  # fmt: skip


def certify(output: Path, said: Path) -> list[str]:
    """Return why the run is not certified: every sequence was to be fed once."""
    codes = wait_for(start(["certify", str(output), "--json"], 1, said))
    return [] if codes == [0] else [f"certify ended with {codes}: {read_output(said)}"]


def summarise(runs: list[Run]) -> list[str]:
    """Return the result in words and as a table."""
    kills = [(run, kill) for run in runs for kill in run.kills]
    killed = [run for run in runs if run.kills]
    survived = sum(not run.problems for run in killed)
    table = Counter((run.way, kill.when) for run, kill in kills)
    first = sum(kill.who == "rank" for _, kill in kills)
    untouched = len(runs) - len(killed)
    return [
        f"{len(killed)} runs of {STEPS} steps with a checkpoint after each were killed {len(kills)} times (SIGKILL; "
        f"{first} times one rank before the other) and started again: {survived} have the weights, optimizer states "
        "and losses of an undisturbed run bit for bit, went on from the newest complete checkpoint at each of "
        f"{sum(len(run.starts) for run in killed)} starts that came to a step, and are certified to have been fed "
        "every sequence once.",
        *([f"{untouched} more runs had ended before each kill and count for nothing."] if untouched else []),
        "",
        "| kills of | at any moment | while saving |",
        "|---|---:|---:|",
        *(f"| {way} | {table[way, 'any']} | {table[way, 'saving']} |" for way in WAYS),
        "",
        *(f"- run {run.seed} ({run.way}): {problem}" for run in runs for problem in run.problems),
    ]


def main() -> None:
    """Do the runs and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--result", type=Path, help="write JSON there, not a dated result")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("prepare", "pretrain", "certify"):
        importlib.import_module(f"biomedllama_cli.recipes.{name}")
    importlib.import_module("transformers.models.llama.modeling_llama")
    importlib.import_module("matplotlib.backends.backend_agg")
    folder = Path(tempfile.mkdtemp(prefix="kill-pretrain-"))
    runs = []
    try:
        material = Material(folder)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.runs):
            (folder / str(seed)).mkdir()
            runs.append(kill_and_finish(material, folder / str(seed) / "run", seed))
            print(runs[-1], flush=True)
            shutil.rmtree(folder / str(seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    facts: dict[str, Any] = {"runs": [asdict(run) for run in runs]}
    if arguments.result:
        arguments.result.write_text(json.dumps(facts))
    else:
        from report import write_result

        write_result("kill_pretrain", summarise(runs), facts)
    sys.exit(any(run.problems for run in runs))


if __name__ == "__main__":
    main()
