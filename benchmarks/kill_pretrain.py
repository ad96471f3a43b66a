"""SIGKILL `pretrain` at random moments, start it again, and hold its weights against an undisturbed run's.

`python benchmarks/kill_pretrain.py --runs 100` writes a dated result; the tests do `--runs 8 --result FILE`. This
process imports everything once and forks for each start, so that a start takes a second. A run is killed one to four
times: at a random moment of it, or while a checkpoint is being written; all its processes, or one of its ranks first,
and then the rest, since a rank that is gone leaves the others waiting. After every kill each checkpoint that is marked
complete must be whole; in the end weights, optimizer states and losses must be those of a run that nobody disturbed,
bit for bit, and the certificate must say that every sequence was fed once.
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
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STEPS = 12
MOST_KILLS = 4
WAYS = ("one process", "one process, saving behind", "two ranks", "two ranks, saving behind")
_WORDS = ["".join(random.Random(i).choices("abcdefghilmnoprstuv", k=5)) for i in range(400)]
_TIMEOUT_SECONDS = 120.0
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
        problems: what was not as it must be; empty where the run survived.
    """

    seed: int
    way: str
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Material:
    """A corpus, and what undisturbed runs give."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = folder / "corpora" / "text"
        self._expected: dict[int, tuple[dict[str, str], float]] = {}
        source = folder / "text.jsonl"
        texts = [" ".join(random.Random(number).choices(_WORDS, k=120)) for number in range(60)]
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        options = ["--input", str(source), "--vocabulary-size", "300", "--output-dir", str(self.corpus)]
        code = wait_for(start(["prepare", *options], 1, folder / "prepare"))
        if code != [0]:
            raise RuntimeError(f"prepare ended with {code}: {read_output(folder / 'prepare')}")

    def arguments(self, output: Path, way: str) -> list[str]:
        """Return the command line of a run of 12 steps with a checkpoint after each."""
        ranks = count_ranks(way)
        line = ["pretrain", "--json", "--corpus", str(self.corpus), "--output-dir", str(output)]
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
        return [*line, "--save-in-background" if way.endswith("behind") else "--no-save-in-background"]

    def expected(self, way: str) -> tuple[dict[str, str], float]:
        """Return hashes of what an undisturbed run leaves, and how long it took (in seconds)."""
        ranks = count_ranks(way)
        if ranks not in self._expected:
            output, began = self.folder / f"expected-{ranks}", time.monotonic()
            said = self.folder / f"said-{ranks}"
            codes = wait_for(start(self.arguments(output, way), ranks, said))
            if codes != [0] * ranks:
                raise RuntimeError(f"the undisturbed run ended with {codes}: {read_output(said)}")
            self._expected[ranks] = hash_result(output), time.monotonic() - began
        return self._expected[ranks]


def count_ranks(way: str) -> int:
    """Return the processes of a way to start.

    >>> [count_ranks(way) for way in WAYS]
    [1, 1, 2, 2]
    """
    return 2 if way.startswith("two") else 1


def start(arguments: list[str], ranks: int, said: Path) -> list[int]:
    """Fork the processes of one start; each is the command line, or one rank of it, and writes beside `said`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process_ids = []
    for rank in range(ranks):
        process_id = os.fork()
        if process_id == 0:
            try:
                become(arguments, rank, ranks, port, said)
            finally:
                os._exit(99)
        process_ids.append(process_id)
    return process_ids


def become(arguments: list[str], rank: int, ranks: int, port: int, said: Path) -> None:
    """Be one start of the command."""
    for stream in (1, 2):
        os.dup2(os.open(f"{said}.{rank}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if ranks > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        os.environ.update({name: str(value) for name, value in places.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    from biomedllama_cli.cli.app import run

    sys.argv = ["biomedllama", *arguments]
    code = run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait_for(process_ids: list[int], seconds: float = _TIMEOUT_SECONDS) -> list[int]:
    """Wait for the end of processes and return their exit codes, negative for a signal; those that stay are killed."""
    codes: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(codes) < len(process_ids):
        for process_id in process_ids:
            if process_id not in codes:
                found, status = os.waitpid(process_id, os.WNOHANG)
                if found:
                    codes[process_id] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            for process_id in set(process_ids) - set(codes):
                os.kill(process_id, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.001)
    return [codes[process_id] for process_id in process_ids]


def read_output(said: Path) -> str:
    """Return what the processes of a start have said, for a message."""
    return "\n".join(path.read_text() for path in sorted(said.parent.glob(f"{said.name}.*")))[-3000:]


def kill_and_finish(material: Material, output: Path, seed: int) -> Run:
    """Start a run, kill it some times, let it end, and look at it."""
    draw = random.Random(seed)
    run = Run(seed, WAYS[seed % len(WAYS)])
    _, seconds = material.expected(run.way)
    arguments, said = material.arguments(output, run.way), output.with_name("said")
    for _ in range(draw.randint(1, MOST_KILLS)):
        process_ids = start(arguments, count_ranks(run.way), said)
        kill = kill_at_random(process_ids, output, draw, seconds)
        if kill is None:
            break
        run.kills.append(kill)
        run.problems += list_broken_checkpoints(output)
    newest = find_newest(output)
    codes = wait_for(start(arguments, count_ranks(run.way), said))
    if set(codes) != {0}:
        run.problems.append(f"the last start ended with {codes}: {read_output(said)}")
        return run
    report = json.loads(Path(f"{said}.0.1").read_text())
    if report["status"] == "trained" and report[_RESUMED] != newest:
        run.problems.append(f"the last start went on from {report[_RESUMED]}, not from {newest}")
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
        if time.monotonic() - began > _TIMEOUT_SECONDS:
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
    survived = sum(not run.problems for run in runs)
    table = Counter((run.way, kill.when) for run, kill in kills)
    return [
        f"{len(runs)} runs of {STEPS} steps with a checkpoint after each were killed {len(kills)} times (SIGKILL) and "
        f"started again: {survived} have the weights, optimizer states and losses of an undisturbed run bit for bit, "
        "found a whole checkpoint at every start, and are certified to have been fed every sequence once.",
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
