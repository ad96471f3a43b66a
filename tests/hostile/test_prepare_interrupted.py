"""`prepare` killed, stopped or started twice: finished parts are kept, and no writer is left behind."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

FILES = 10


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, corpora: Any) -> Path:
    """Return a folder with ten input files of 1.2 MB, a tokenizer, and the corpus of an undisturbed run."""
    folder = tmp_path_factory.mktemp("material")
    corpora.write_tokenizer(folder / "tokenizer")
    corpora.write_input(folder / "input", FILES, documents=400, words=500)
    assert finish(folder, folder / "expected")["tasks_resumed"] == 0
    return folder


def start(material: Path, output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "biomedllama_cli",
        "prepare",
        "--input",
        str(material / "input"),
        "--json",
    ]
    command += ["--tokenizer", str(material / "tokenizer"), "--output-dir", str(output), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(material: Path, output: Path, *arguments: str) -> dict[str, Any]:
    process = start(material, output, *arguments)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    report: dict[str, Any] = json.loads(out)
    return report


def wait_for_a_finished_task(process: subprocess.Popen[str], output: Path) -> Path:
    """Wait until one part is done, and return the hidden work folder."""
    work = output.with_name(f".{output.name}.partial")
    while not list(work.glob("executor/completions/*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return work


def list_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]


def test_killed_run_leaves_no_writer_and_goes_on_at_once(
    material: Path, tmp_path: Path, corpora: Any
) -> None:
    output = tmp_path / "corpus"
    process = start(material, output, "--workers", "2")
    work = wait_for_a_finished_task(process, output)
    workers = list_workers(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive, "a worker outlived its parent"
    done = len(list(work.glob("executor/completions/*")))
    assert not output.exists()
    report = finish(material, output, "--workers", "2")
    assert report["tasks_resumed"] == done < FILES
    assert corpora.read_corpus(output) == corpora.read_corpus(material / "expected")
    assert not work.exists()


def test_terminated_run_says_it_can_go_on(material: Path, tmp_path: Path, corpora: Any) -> None:
    output = tmp_path / "corpus"
    process = start(material, output)
    wait_for_a_finished_task(process, output)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 75, (out, errors)
    assert "SIGTERM" in out + errors
    assert not output.exists()
    assert finish(material, output)["tasks_resumed"] >= 1
    assert corpora.read_corpus(output) == corpora.read_corpus(material / "expected")


def test_killed_worker_is_an_error_and_not_a_wait_for_ever(
    material: Path, tmp_path: Path, corpora: Any
) -> None:
    output = tmp_path / "corpus"
    process = start(material, output, "--workers", "2")
    wait_for_a_finished_task(process, output)
    list_workers(process)[0].kill()
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 7, (out, errors)
    assert "Traceback" not in out + errors
    finish(material, output)
    assert corpora.read_corpus(output) == corpora.read_corpus(material / "expected")


def test_second_writer_is_refused(material: Path, tmp_path: Path) -> None:
    work = tmp_path / ".corpus.partial"
    work.mkdir()
    lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        process = start(material, tmp_path / "corpus")
        out, errors = process.communicate(timeout=120)
    finally:
        os.close(lock)
    assert process.returncode == 6
    assert "another process" in out + errors
    finish(material, tmp_path / "corpus")


def test_unfinished_work_of_another_job_is_not_mixed_in(material: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    process = start(material, output)
    wait_for_a_finished_task(process, output)
    process.kill()
    process.communicate()
    other = start(material, output, "--bos", "never")
    out, errors = other.communicate(timeout=120)
    assert other.returncode == 6
    assert "unfinished work of another job" in out + errors
    assert finish(material, output, "--bos", "never", "--overwrite")["tasks_resumed"] == 0
    assert not json.loads((output / "manifest.json").read_text())["adds_bos"]


def load_kills() -> Any:
    """Import the benchmark, of which the tests run a small part."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_prepare.py"
    spec = importlib.util.spec_from_file_location("kill_prepare", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kill_material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the input, the tokenizer and the undisturbed corpus of the kill tests."""
    folder: Path = load_kills().make_material(tmp_path_factory.mktemp("kills"), documents=40)
    return folder


# Three killed while tasks run (parent, worker, group), one while the corpus is put together, one at the last rename.
@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 7, 8, 6, 0])
def test_kill_at_a_random_moment_costs_no_finished_task_and_no_byte(
    kill_material: Path, tmp_path: Path, seed: int
) -> None:
    kill = load_kills().kill_once(kill_material, tmp_path / "corpus", seed)
    assert kill.same_bytes, kill
    assert kill.finished_before <= kill.resumed, kill
    assert not kill.leftovers, kill
    if kill.ended_before or (kill.exit_code == 0 and kill.resumed > kill.finished_before):
        return  # on a busy machine the moment may lie after the last task, or the worker had no task left
    assert kill.exit_code == (7 if kill.who == "worker" else -signal.SIGKILL), kill


def measure_memory(material: Path, folder: Path, copies: int) -> int:
    """Return the peak resident memory (in MB) of preparing `copies` different copies of the input."""
    (folder / "input").mkdir(parents=True)
    lines = (material / "input" / "0.jsonl").read_text().splitlines()
    with (folder / "input" / "a.jsonl").open("w") as file:
        for copy in range(copies):
            file.writelines(text[:-2] + f' {copy}"}}\n' for text in lines)
    code = (
        "import sys\nfrom biomedllama_cli.cli.app import run\n"
        "code = run(sys.argv[1:])\n"
        # Not ru_maxrss, which begins with what the test's own process needed.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(int(peak.split()[1]) // 1024)\nsys.exit(code)\n"
    )
    command = [sys.executable, "-c", code, "prepare", "--input", str(folder / "input")]
    command += ["--tokenizer", str(material / "tokenizer"), "--output-dir", str(folder / "corpus")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1])


def test_memory_does_not_grow_with_the_input(material: Path, tmp_path: Path) -> None:
    # From 12 copies on every bounded store (a row group of the document table, a batch of texts) is full.
    small = measure_memory(material, tmp_path / "small", 12)
    large = measure_memory(material, tmp_path / "large", 50)
    # 46 MB more text, 23 million more tokens (46 MB): holding either would show. Allocators differ by 5 to 25 MB.
    assert large - small < 36, f"{small} MB for 14 MB of text, {large} MB for 60 MB"
