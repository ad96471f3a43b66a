"""`biomedllama evaluate` in several processes: the numbers of one, told once."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from evaluate_forks import write_data
from safetensors.torch import load_file, save_file
from tiny_llama import build_tiny_model

from biomedllama_cli.errors import ExitCode

Start = Callable[..., subprocess.Popen[str]]
TWO = ("--num-processes", "2")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, questions and texts."""
    folder = tmp_path_factory.mktemp("material")
    build_tiny_model(folder / "model", adds_bos=False)
    write_data(folder)
    return folder


@pytest.fixture
def start(job_environment: dict[str, str], material: Path) -> Iterator[Start]:
    """Return a function that starts the command with all kinds of profiles and a threshold that is missed."""
    started: list[subprocess.Popen[str]] = []

    def begin(
        output: Path, *options: str, before: list[str] | None = None, room: Path = material
    ) -> subprocess.Popen[str]:
        command = [*(before or [sys.executable]), "-m", "biomedllama_cli", "evaluate", "--json"]
        command += ["--device", "cpu", "--output-dir", str(output), "--model", str(room / "model")]
        command += ["--task", "medqa", "--data", f"medqa={room / 'medqa.jsonl'}"]
        command += ["--task", "text", "--data", f"text={material / 'text.jsonl'}"]
        for profile in ("paper", "clean", "instructed", "cot", "harness"):
            command += ["--profile", profile]
        command += ["--row-tokens", "128", "--max-new-tokens", "8", "--chains", "2", "--self-check", "2"]
        command += ["--fail-under", "text=0.01", *options]
        process = subprocess.Popen(
            command, env=job_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def read(folder: Path) -> dict[str, Any]:
    """Return all of a results folder but the time, the place and the number of processes."""
    content = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    results = json.loads(content.pop("results.json"))
    del results["created"], results["settings"]["output_dir"], results["settings"]["compute"]["num_processes"]
    return {"results.json": results, **content}


def assert_told_once(output: str, errors: str) -> None:
    """Check one report on stdout, and on stderr no line twice but the threshold's sentence."""
    assert json.loads(output)["schema_version"] == "biomedllama.evaluate/2"
    lines = [re.sub(r"^[\d:]+ ", "", line) for line in errors.splitlines()]
    assert len(lines) == len(set(lines)), errors
    assert sum("context_length is lowered" in line for line in lines) == 1
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one") / "out"


@pytest.fixture
def reference(start: Start, one_process: Path) -> Path:
    """Return the results of one process, made once."""
    if not one_process.exists():
        process = start(one_process)
        output, errors = process.communicate(timeout=280)
        assert process.returncode == ExitCode.BELOW_THRESHOLD, errors
        assert_told_once(output, errors)
    return one_process


def test_two_processes_give_the_numbers_of_one_and_one_report(
    start: Start, reference: Path, tmp_path: Path
) -> None:
    process = start(tmp_path / "out", *TWO)
    output, errors = process.communicate(timeout=280)
    # A missed threshold: the report is the one document, the sentence follows, and the code is its own.
    assert process.returncode == ExitCode.BELOW_THRESHOLD, errors
    assert_told_once(output, errors)
    assert sum(line.startswith("Error:") for line in errors.splitlines()) == 1
    assert read(tmp_path / "out") == read(reference)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_under_torchrun_it_scores_in_its_processes_and_prints_one_report(
    start: Start, reference: Path, tmp_path: Path
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    output, errors = start(tmp_path / "out", before=torchrun).communicate(timeout=280)
    assert json.loads(output)["failed_thresholds"], errors
    assert read(tmp_path / "out") == read(reference)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_of_one_process_is_told_once(start: Start, material: Path, tmp_path: Path) -> None:
    # A question with a letter that the model knows as no number: one process meets it.
    rows = (material / "medqa.jsonl").read_text(encoding="utf-8").splitlines()
    rows[5] = json.dumps({**json.loads(rows[5]), "question": "Which metal is \u2603?"})
    (tmp_path / "medqa.jsonl").write_text("\n".join(rows), encoding="utf-8")
    model = tmp_path / "model"
    model.mkdir()
    for file in (material / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    weights = load_file(model / "model.safetensors")
    vocabulary = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    weights["model.embed_tokens.weight"][vocabulary["\u00e2"]] = float(
        "nan"
    )  # its first byte, as BPE writes it
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    process = start(tmp_path / "out", *TWO, room=tmp_path)
    output, errors = process.communicate(timeout=280)
    error = json.loads(output)["error"]
    assert (process.returncode, error["kind"]) == (ExitCode.MODEL, "ModelError"), errors
    assert "must be finite" in error["message"]
    assert "Error" not in errors
    assert not (tmp_path / "out").exists()


def test_killed_and_stopped_it_leaves_no_process_and_continues_with_another_number_of_them(
    start: Start, reference: Path, tmp_path: Path
) -> None:
    process = start(tmp_path / "out", *TWO)
    wait_for_lines(process, tmp_path, 1)
    job = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(job, timeout=60)[1]
    before = len(read_lines(tmp_path))
    assert not (tmp_path / "out").exists()

    process = start(tmp_path / "out", *TWO)
    wait_for_lines(process, tmp_path, before + 2)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == ExitCode.RESUMABLE, errors
    error = json.loads(output)["error"]
    assert (error["kind"], error["hint"]) == ("Resumable", "The same command continues.")
    assert error["message"].startswith("stopped by SIGTERM with ")
    assert "Traceback" not in errors

    process = start(tmp_path / "out")
    output, errors = process.communicate(timeout=280)
    assert process.returncode == ExitCode.BELOW_THRESHOLD, errors
    assert "continuing: " in errors
    assert read(tmp_path / "out") == read(reference)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def read_lines(folder: Path) -> list[bytes]:
    return [
        line
        for path in folder.glob(".evaluate-*/finished-*.jsonl")
        for line in path.read_bytes().splitlines()
    ]


def wait_for_lines(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    while len(read_lines(folder)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
