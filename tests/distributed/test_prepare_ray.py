"""`prepare --executor ray` on a real cluster of this machine."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import biomedllama_cli

pytest.importorskip("ray")
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

FILES = 5
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith("RAY_")
} | {
    "PYTHONPATH": str(Path(biomedllama_cli.__file__).parents[1]),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}  # fmt: skip
START_CLUSTER = """
import sys, time, ray
context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
                   object_store_memory=100 << 20)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, corpora: Any) -> Path:
    """Return a folder with a small and a larger input, a tokenizer, and the corpus that local tasks make."""
    folder = tmp_path_factory.mktemp("material")
    corpora.write_tokenizer(folder / "tokenizer")
    corpora.write_input(folder / "input", FILES, documents=20, words=100)
    corpora.write_input(folder / "large", FILES, documents=4000, words=100)
    assert prepare(folder, folder / "expected", "input")["state"] == "finished"
    return folder


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return the address of a cluster of two processors."""
    process = subprocess.Popen(
        [sys.executable, "-c", START_CLUSTER], env=ENVIRONMENT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate(timeout=120)


def start(material: Path, output: Path, source: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "biomedllama_cli", "prepare", "--json", "--input", source]
    command += ["--tokenizer", "tokenizer", "--output-dir", str(output), *arguments]
    return subprocess.Popen(
        command, cwd=material, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def prepare(material: Path, output: Path, source: str, *arguments: str) -> dict[str, Any]:
    out, errors = start(material, output, source, *arguments).communicate(timeout=400)
    assert out, errors
    report: dict[str, Any] = json.loads(out)
    return report


def wait_for_a_finished_task(process: subprocess.Popen[str], output: Path) -> Path:
    work = output.with_name(f".{output.name}.partial")
    while not list(work.glob("executor/completions/*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return work


def test_ray_tasks_make_the_same_corpus_as_local_ones(
    material: Path, tmp_path: Path, address: str, corpora: Any
) -> None:
    arguments = ("--executor", "ray", "--ray-address", address)
    report = prepare(material, tmp_path / "corpus", "input", *arguments)
    assert report["state"] == "finished", report
    assert corpora.read_corpus(tmp_path / "corpus") == corpora.read_corpus(material / "expected")
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus"]


def test_error_in_a_ray_task_is_the_commands_own_error(material: Path, tmp_path: Path, address: str) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "bad.jsonl").write_text('{"text": "a"}\n{"text": broken}\n')
    source = str(tmp_path / "input")
    report = prepare(material, tmp_path / "corpus", source, "--executor", "ray", "--ray-address", address)
    assert (report["error"]["kind"], report["error"]["exit_code"]) == ("DataError", 3)
    assert "bad.jsonl, line 2" in report["error"]["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_coordinator_leaves_no_writer_and_goes_on(
    material: Path, tmp_path: Path, address: str, corpora: Any, number: signal.Signals
) -> None:
    arguments = ("--executor", "ray", "--ray-address", address)
    for attempt in range(3):
        output = tmp_path / f"corpus-{attempt}"
        process = start(material, output, "large", *arguments)
        work = wait_for_a_finished_task(process, output)
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
        if "An unexpected system state has occurred" not in errors:
            break  # else Ray's own core gave up the process, as it now and then does while it is shut down
    assert process.returncode == (75 if number == signal.SIGTERM else -number), (out, errors)
    done = len(list(work.glob("executor/completions/*")))
    report = prepare(material, output, "large", *arguments)  # at once: it waits for what is still dying
    assert report["state"] == "finished", report
    assert report["tasks_resumed"] >= done >= 1
    local = tmp_path / "local"
    prepare(material, local, "large")
    assert corpora.read_corpus(output) == corpora.read_corpus(local)


def test_dead_ray_worker_is_replaced(material: Path, tmp_path: Path, address: str) -> None:
    output = tmp_path / "corpus"
    process = start(material, output, "large", "--executor", "ray", "--ray-address", address)
    wait_for_a_finished_task(process, output)
    workers = [
        p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] and is_task(p.info["cmdline"])
    ]
    assert workers
    workers[0].kill()
    out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, (out, errors)
    assert json.loads(out)["state"] == "finished"


def is_task(command: list[str]) -> bool:
    return command[0] == "ray::run_task"


def test_cluster_that_does_not_answer_is_one_sentence(material: Path, tmp_path: Path) -> None:
    report = prepare(
        material, tmp_path / "corpus", "input", "--executor", "ray", "--ray-address", "127.0.0.1:1"
    )
    assert (report["error"]["kind"], report["error"]["exit_code"]) == ("UnavailableError", 5)
    assert "127.0.0.1:1" in report["error"]["message"]


def test_missing_package_says_how_to_install_it(material: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked" / "ray"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('no ray')\n")
    command = [sys.executable, "-m", "biomedllama_cli", "prepare", "--input", "input", "--executor", "ray"]
    command += ["--tokenizer", "tokenizer", "--output-dir", str(tmp_path / "corpus")]
    path = os.pathsep.join([str(blocked.parent), ENVIRONMENT["PYTHONPATH"]])
    done = subprocess.run(
        command,
        cwd=material,
        env=ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    assert 'pip install "biomedllama-cli[ray]"' in done.stderr
