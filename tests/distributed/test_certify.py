"""What several ranks were fed is certified after kills and changes of the world size; a slow rank is told."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from node_commands import hold_at

from biomedllama_cli.engine.sequence_frames import SEQUENCE_LOG, FedStep, read_frames
from biomedllama_cli.errors import ExitCode
from biomedllama_cli.recipes.certify import certify
from biomedllama_cli.settings.certify import CertifySettings

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(job_environment: dict[str, str], corpus_folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a run of three epochs with the given options."""
    started: list[subprocess.Popen[str]] = []

    def start_run(*options: str, held_at: int | None = None) -> subprocess.Popen[str]:
        environment, module = job_environment, "biomedllama_cli"
        if held_at is not None:
            environment, module = hold_at(held_at, tmp_path / "held", job_environment), "held_command"
        command = [
            sys.executable,
            "-m",
            module,
            "pretrain",
            "--json",
            "--corpus",
            str(corpus_folder),
        ]
        command += ["--output-dir", str(tmp_path / "run"), "--model", "scratch:tiny", "--device", "cpu"]
        command += [
            "--precision",
            "fp32",
            "--epochs",
            "3",
            "--sequence-length",
            "32",
            "--micro-batch-size",
            "4",
        ]
        command += ["--global-batch-size", "32", "--save-every-steps", "4", "--general", "none", *options]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_for_step(run: Path, step: int) -> None:
    log, end = run / SEQUENCE_LOG, time.monotonic() + 120
    while time.monotonic() < end:
        if log.exists() and any(isinstance(e, FedStep) and e.step >= step for e in read_frames(log)):
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step}")


def wait_until_free(run: Path) -> None:
    """Wait until no process holds the run folder any more."""
    with (run / ".lock").open() as lock:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.05)
    raise AssertionError("somebody still holds the run folder")


def test_kills_and_other_world_sizes_leave_each_sequence_once(start: Start, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed = start("--num-processes", "4", "--dp-replicate-size", "2", held_at=6)
    wait_for_step(run, 6)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    wait_until_free(run)
    stopped = start("--num-processes", "2", "--cp-size", "2", held_at=14)
    wait_for_step(run, 14)
    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=120)
    assert stopped.returncode == ExitCode.RESUMABLE, errors
    finished = start()
    output, errors = finished.communicate(timeout=120)
    assert finished.returncode == 0, errors
    report = certify(CertifySettings(run=run))
    assert (report.verdict, report.contents) == ("certified", "checked"), report.problems
    assert [begun.processes for begun in report.starts] == [4, 2, 1]
    assert report.steps_undone == 2
    assert report.step == json.loads(output)["steps"]
    assert [epoch.whole for epoch in report.epochs] == [True] * 3


def test_a_rank_that_computes_slower_is_told(run_ranks: Callable[..., None], tmp_path: Path) -> None:
    run_ranks("straggler_worker.py", str(tmp_path), world_size=2)
    told = json.loads((tmp_path / "told.json").read_text())
    assert len(told["warnings"]) == 1
    assert "rank 1 computes" in told["warnings"][0]
    assert told["ratio"] > 2
