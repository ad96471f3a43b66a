"""`biomedllama pretrain` in several processes, from the command line to the checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from biomedllama_cli.errors import ExitCode

STEPS = 12
Pretrain = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def pretrain(job_environment: dict[str, str], corpus_folder: Path) -> Iterator[Pretrain]:
    """Return a function that starts the command on the random corpus."""
    started: list[subprocess.Popen[str]] = []

    def start(
        run: Path, *options: str, before: list[str] | None = None, own_group: bool = False
    ) -> subprocess.Popen[str]:
        command = [*(before or [sys.executable]), "-m", "biomedllama_cli", "pretrain", "--json"]
        command += ["--corpus", str(corpus_folder), "--output-dir", str(run), "--model", "scratch:tiny"]
        command += ["--device", "cpu", "--precision", "fp32", "--max-steps", str(STEPS), "--epochs", "9"]
        command += ["--sequence-length", "32", "--micro-batch-size", "2", "--global-batch-size", "32"]
        command += ["--peak-learning-rate", "1e-3", "--attention", "sdpa", *options]
        process = subprocess.Popen(
            command,
            env=job_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=own_group,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return json.loads(output)


def read_lines(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_losses(run: Path) -> list[float]:
    return [line["train/loss"] for line in read_lines(run) if "train/loss" in line]


def assert_same_training(run: Path, reference: Path) -> None:
    losses, expected = read_losses(run), read_losses(reference)
    assert len(losses) == len(expected) == STEPS
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) <= 1e-5
    last = f"checkpoints/step-{STEPS:08d}/model.safetensors"
    weights, wanted = load_file(run / last), load_file(reference / last)
    assert weights.keys() == wanted.keys()
    assert all((weights[name] - wanted[name]).abs().max() <= 1e-5 for name in wanted)


@pytest.fixture
def one_process(pretrain: Pretrain, runs: Path) -> Path:
    """Return the run of one process, trained once for all tests."""
    run = runs / "one"
    if not (run / "report.json").exists():
        assert finish(pretrain(run))["world_size"] == 1
    return run


def test_four_processes_on_a_2_x_2_mesh_train_as_one_does(
    pretrain: Pretrain, one_process: Path, runs: Path
) -> None:
    run = runs / "four"
    report = finish(pretrain(run, "--num-processes", "4", "--dp-replicate-size", "2"))
    assert report["world_size"] == 4
    assert report["mesh"] == {"dp_replicate": 2, "dp_shard": 2}
    assert_same_training(run, one_process)


def test_processes_that_share_sequences_train_as_one_does(
    pretrain: Pretrain, one_process: Path, runs: Path
) -> None:
    run = runs / "shared"
    report = finish(pretrain(run, "--num-processes", "2", "--cp-size", "2", "--attention", "auto"))
    assert report["mesh"] == {"dp_replicate": 1, "dp_shard": 1, "cp": 2}
    assert report["attention"] == "split"
    assert report["grad_accum_steps"] == 16
    assert read_losses(run) == pytest.approx(read_losses(one_process), abs=1e-5)
    looks, expected = (
        [line["validation/loss"] for line in read_lines(folder) if "validation/loss" in line]
        for folder in (run, one_process)
    )
    assert looks == pytest.approx(expected, abs=1e-5)


def test_sequences_that_cannot_be_shared_are_refused_before_anything_starts(
    pretrain: Pretrain, runs: Path
) -> None:
    for options, says in (
        (("--sequence-length", "30"), "must be a multiple of 2 x parallel.cp_size = 4"),
        (("--attention", "sdpa"), "takes an attention of its own"),
    ):
        process = pretrain(runs / "refused", "--num-processes", "2", "--cp-size", "2", "--dry-run", *options)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == ExitCode.USAGE
        assert says in json.loads(output)["error"]["message"]


def test_a_stopped_job_saves_leaves_nothing_and_continues_to_the_same_weights(
    pretrain: Pretrain, one_process: Path, runs: Path
) -> None:
    run = runs / "stopped"
    options = ("--num-processes", "2", "--micro-batch-size", "1")
    process = pretrain(run, *options)
    while len(read_losses(run)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == ExitCode.RESUMABLE, errors
    assert json.loads(output)["error"]["kind"] == "Resumable"
    assert find_processes(run) == []
    stopped_at = len(read_losses(run))
    assert stopped_at < STEPS
    assert (run / f"checkpoints/step-{stopped_at:08d}/COMPLETE").exists()
    assert finish(pretrain(run, *options))["resumed_step"] == stopped_at
    assert_same_training(run, one_process)


def test_a_signal_to_the_whole_process_group_leaves_the_loader_to_the_last_step(
    pretrain: Pretrain, runs: Path
) -> None:
    """As `timeout`, torchrun and Slurm send it: to the loader processes as well."""
    run = runs / "group"
    process = pretrain(run, "--data-workers", "1", own_group=True)
    while len(read_losses(run)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == ExitCode.RESUMABLE, errors
    stopped_at = len(read_losses(run))
    assert stopped_at < STEPS
    assert (run / f"checkpoints/step-{stopped_at:08d}/COMPLETE").exists()
    assert find_processes(run) == []


def test_under_torchrun_it_trains_in_its_processes_and_prints_one_report(
    pretrain: Pretrain, one_process: Path, runs: Path
) -> None:
    run = runs / "torchrun"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    assert finish(pretrain(run, before=torchrun))["world_size"] == 2
    assert_same_training(run, one_process)


def test_a_setting_that_every_process_refuses_is_one_error(pretrain: Pretrain, runs: Path) -> None:
    process = pretrain(runs / "fp16", "--num-processes", "2", "--precision", "fp16")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == ExitCode.USAGE
    assert "precision is fp16, which needs CUDA" in json.loads(output)["error"]["message"]
    assert "Traceback" not in errors


def find_processes(run: Path) -> list[str]:
    """Return the command lines of processes that name a run folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(run) in command and folder.name != str(os.getpid()):
            found.append(" ".join(command))
    return found
