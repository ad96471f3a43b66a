"""Two launchers in two network namespaces, joined by one virtual cable, train as two nodes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
from node_commands import assert_same_training, build_command, find_processes

SCRIPT = Path(__file__).resolve().with_name("two_networks.sh")


def run_in_networks(traffic: Path, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    namespaces = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    try:
        started = subprocess.Popen(
            [*namespaces, "bash", str(SCRIPT), str(traffic), *command],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        return 127, str(error)
    try:
        _, errors = started.communicate(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    return started.returncode, errors


def test_two_networks_with_one_cable_train_as_one_process_does(
    job_environment: dict[str, str], corpus_folder: Path, tmp_path: Path
) -> None:
    code, why = run_in_networks(tmp_path / "none", [], job_environment)
    if code != 0:
        pytest.skip(f"network namespaces cannot be made here: {why.strip().splitlines()[-1:]}")
    nodes = ["--nodes", "2", "--rendezvous", "10.213.7.1:29400", "--rendezvous-timeout", "60"]
    command = build_command(corpus_folder, tmp_path / "two", *nodes)
    code, errors = run_in_networks(tmp_path / "traffic", command, job_environment)
    assert code == 0, errors
    assert find_processes(tmp_path / "two") == []
    # The cable is the only way between them: gradients of every step have gone over it.
    assert int((tmp_path / "traffic").read_text().split()[1]) > 500_000
    subprocess.run(
        build_command(corpus_folder, tmp_path / "one"), env=job_environment, check=True, capture_output=True
    )
    assert_same_training(tmp_path / "two", tmp_path / "one")
