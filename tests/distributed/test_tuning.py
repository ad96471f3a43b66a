"""`biomedllama finetune` and `instruct` in several processes: the losses, weights and scores of one, told once."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluate_forks import Ended, Forks
from safetensors.torch import load_file
from tiny_llama import build_tiny_model
from tuning_forks import write_questions

from biomedllama_cli.errors import ExitCode

TOLERANCE = 1e-5
SEEDS = ("--seeds", "3,4")
LORA = ("--method", "lora", "--rank", "2", "--peak-learning-rate", "1e-3", "--no-packing", "--merge")
TWO_COPIES = ("--dp-replicate-size", "2")


class Runs:
    """Jobs of one or two processes on made-up questions, in a folder."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder, self._forks = folder, forks
        self._references: dict[tuple[str, ...], Path] = {}

    def finetune(self, output: Path, *options: str) -> list[str]:
        """Return a command line; 7 examples a step are as many rows on two ranks only with an empty one."""
        line = ["finetune", "--task", str(self.folder / "train.jsonl"), "--output-dir", str(output)]
        line += ["--test", str(self.folder / "test.jsonl"), "--validation-fraction", "0.2", "--epochs", "1"]
        return [*line, *self._shape(), *options]

    def instruct(self, output: Path, *options: str) -> list[str]:
        """Return a command line of a mixture of two sources."""
        line = ["instruct", "--mixture", str(self.folder / "mixture.yaml"), "--output-dir", str(output)]
        return [*line, "--draws", "30", "--epochs", "1", "--template", "plain", *self._shape(), *options]

    def _shape(self) -> list[str]:
        line = ["--model", str(self.folder / "model"), "--json", "--device", "cpu", "--precision", "fp32"]
        line += ["--decontaminate", "off", "--data-workers", "0", "--global-batch-size", "7"]
        return [*line, "--sequence-length", "384", "--save-every-steps", "2", "--validate-every-steps", "2"]

    def run(self, arguments: list[str], ranks: int = 1, **order: Any) -> list[Ended]:
        """Run a job whose processes a launcher such as torchrun has started, and return how each ended."""
        environments: list[dict[str, str]] = [{}]
        if ranks > 1:
            shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
            shared |= {"MASTER_PORT": str(find_port()), "GLOO_SOCKET_IFNAME": "lo"}
            environments = [shared | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(ranks)]
        started = [self._forks.start(arguments, environment=each, **order) for each in environments]
        return [self._forks.finish(process_id) for process_id in started]

    def reference(self, *options: str) -> Path:
        """Return the run folder of one process, with its report beside it."""
        if options not in self._references:
            output = self.folder / f"one-{len(self._references)}" / "out"
            (ended,) = self.run(self.finetune(output, *options))
            assert ended.code == 0, ended.errors
            (output.parent / "report.json").write_text(ended.out)
            self._references[options] = output
        return self._references[options]


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, job_environment: dict[str, str]
) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("tuning")
    build_tiny_model(folder / "model", adds_bos=False)
    write_questions(folder / "train.jsonl", 40)
    write_questions(folder / "more.jsonl", 9, first=60)
    write_questions(folder / "test.jsonl", 5, first=100)
    sources = [
        {"source": name, "format": "questions", "path": f"{name}.jsonl", "weight": 1, "licence": "CC0-1.0"}
        for name in ("train", "more")
    ]
    (folder / "mixture.yaml").write_text(json.dumps({"name": "made-up", "sources": sources}))
    forks = Forks(job_environment, folder, repository / "tests" / "hostile" / "tuning_forks.py")
    yield Runs(folder, forks)
    forks.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(run: Path, reference: Path) -> None:
    """Check losses (training and held out), counts, files and weights of every checkpoint of one run."""
    names = ("step", "train/loss", "validation/loss", "train/learning_rate", "tokens_seen")
    found, wanted = (
        [
            {k: line[k] for k in names if k in line}
            for line in read_metrics(each)
            if "checkpoint/step" not in line
        ]
        for each in (run, reference)
    )  # a run that is stopped saves before it looks
    assert len(found) == len(wanted) > 4
    for line, expected in zip(found, wanted, strict=True):
        assert line == pytest.approx(expected, abs=TOLERANCE)
    files = [sorted(str(path.relative_to(each)) for path in each.rglob("*")) for each in (run, reference)]
    assert files[0] == files[1]
    for path in reference.rglob("*.safetensors"):
        if path.name == "rng.safetensors":
            continue
        tensors, expected_tensors = load_file(run / path.relative_to(reference)), load_file(path)
        assert tensors.keys() == expected_tensors.keys()
        assert all((tensors[name] - expected_tensors[name]).abs().max() <= TOLERANCE for name in tensors)


def assert_same_scores(report: dict[str, Any], reference: Path) -> None:
    expected = json.loads((reference.parent / "report.json").read_text())
    assert report["gains"] is not None
    for name in ("gains", "likelihood_gains"):
        text, wanted = (
            json.dumps(each[name]).replace(each["settings"]["output_dir"], "RUN")
            for each in (report, expected)
        )
        assert text == wanted
    assert report["data"] == expected["data"]


def assert_told_by_the_first(ended: list[Ended]) -> dict[str, Any]:
    assert [each.code for each in ended] == [0] * len(ended), [each.errors for each in ended]
    assert [each.out for each in ended[1:]] == [""] * (len(ended) - 1)
    assert "Traceback" not in "".join(each.errors for each in ended)
    report: dict[str, Any] = json.loads(ended[0].out)
    assert report["world_size"] == len(ended)
    return report


# On a mesh of 2 x 1, and below, under launchers, on one of 1 x 2.
def test_two_seeds_in_two_processes_train_and_score_as_one_does(runs: Runs, tmp_path: Path) -> None:
    reference = runs.reference(*SEEDS)
    arguments = runs.finetune(tmp_path / "out", *SEEDS, *TWO_COPIES)
    report = assert_told_by_the_first(runs.run(arguments, ranks=2))
    for seed in (3, 4):
        assert_same_run(tmp_path / "out" / f"seed-{seed}", reference / f"seed-{seed}")
    assert_same_scores(report, reference)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_adapters_in_two_processes_train_merge_and_score_as_in_one(runs: Runs, tmp_path: Path) -> None:
    reference = runs.reference(*LORA)
    arguments = runs.finetune(tmp_path / "out", *LORA, *TWO_COPIES)
    report = assert_told_by_the_first(runs.run(arguments, ranks=2))
    assert_same_run(tmp_path / "out", reference)
    assert_same_scores(report, reference)


def test_a_mixture_in_two_processes_trains_as_in_one(runs: Runs, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = assert_told_by_the_first(runs.run(runs.instruct(one)))
    together = assert_told_by_the_first(runs.run(runs.instruct(two), ranks=2))
    assert_same_run(two, one)
    assert together["mixture"] == alone["mixture"]


# Started with one number of processes, killed or stopped in a step, continued with another, and once more.
def test_a_stopped_run_continues_with_another_number_of_processes(runs: Runs, tmp_path: Path) -> None:
    reference, arguments = runs.reference(*SEEDS), runs.finetune(tmp_path / "out", *SEEDS)
    step = ("biomedllama_cli.engine.loop", "train_step")
    ended = runs.run(arguments, ranks=2, stop=(*step, 3, "SIGTERM"))
    assert [each.code for each in ended] == [ExitCode.RESUMABLE] * 2, ended
    (ended_alone,) = runs.run(arguments, stop=(*step, 2, "SIGKILL"))  # the last step of the first seed
    assert ended_alone.code == -signal.SIGKILL
    report = assert_told_by_the_first(runs.run(arguments, ranks=2))
    for seed in (3, 4):
        assert_same_run(tmp_path / "out" / f"seed-{seed}", reference / f"seed-{seed}")
    assert_same_scores(report, reference)
    again = json.loads(runs.run(arguments, ranks=2)[0].out)
    assert {run["status"] for run in again["runs"]} == {"already trained"}


@pytest.fixture
def start(job_environment: dict[str, str]) -> Iterator[Any]:
    """Return a function that starts a whole command, with its own launcher where it asks for one."""
    started: list[subprocess.Popen[str]] = []

    def begin(arguments: list[str], before: list[str] | None = None) -> subprocess.Popen[str]:
        command = [*(before or [sys.executable]), "-m", "biomedllama_cli", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=job_environment, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_its_own_launcher_starts_two_processes_and_prints_one_report(
    runs: Runs, start: Any, tmp_path: Path
) -> None:
    process = start(runs.finetune(tmp_path / "out", *SEEDS, "--num-processes", "2"))
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    for seed in (3, 4):
        assert_same_run(tmp_path / "out" / f"seed-{seed}", runs.reference(*SEEDS) / f"seed-{seed}")
    assert_same_scores(json.loads(output), runs.reference(*SEEDS))
    assert "Traceback" not in errors


# While the first process merges the adapters, and the second waits for it in a collective, where it hears no signal.
def test_a_signal_ends_a_job_in_which_only_one_process_works(runs: Runs, start: Any, tmp_path: Path) -> None:
    process = start(runs.finetune(tmp_path / "out", *LORA, "--num-processes", "2"))
    merging = tmp_path / "out" / ".merged.tmp"
    while not merging.exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.RESUMABLE, (output, errors)
    assert json.loads(output)["error"]["kind"] == "Resumable"
    assert not (tmp_path / "out" / "report.json").exists()
    report = assert_told_by_the_first(runs.run(runs.finetune(tmp_path / "out", *LORA)))
    assert_same_run(tmp_path / "out", runs.reference(*LORA))
    assert_same_scores(report, runs.reference(*LORA))


def test_under_torchrun_it_trains_in_its_processes(runs: Runs, start: Any, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    process = start(runs.finetune(tmp_path / "out", *LORA), before=torchrun)
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert_same_run(tmp_path / "out", runs.reference(*LORA))
    assert_same_scores(json.loads(output), runs.reference(*LORA))
