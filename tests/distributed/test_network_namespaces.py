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
UNSHARE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
PROBE = "ip link add probe0 type veth peer name probe1 && unshare --net nsenter --version >/dev/null"


@pytest.fixture
def namespaces() -> list[str]:
    """Return what runs a command in a network of its own, or skip where the system has none to give."""
    try:
        made = subprocess.run([*UNSHARE, "sh", "-c", PROBE], capture_output=True, text=True, timeout=60)
        obstacle = made.stderr.strip() or "no reason was given" if made.returncode else ""
    except FileNotFoundError as error:
        obstacle = str(error)
    if obstacle:
        if os.environ.get("REQUIRE_NETWORK_NAMESPACES"):
            pytest.fail(
                f"network namespaces must be there when REQUIRE_NETWORK_NAMESPACES is set: {obstacle}"
            )
        pytest.skip(f"network namespaces cannot be made here: {obstacle}")
    return UNSHARE


def run_in_networks(command: list[str], environment: dict[str, str]) -> None:
    """Run a command, and fail with what it says."""
    started = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    ended = ""
    try:
        _, errors = started.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        ended = "it did not end in 200 s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    if ended:
        _, errors = started.communicate()
    assert started.returncode == 0, f"{ended}\n{errors}"


def test_two_networks_with_one_cable_train_as_one_process_does(
    namespaces: list[str], job_environment: dict[str, str], corpus_folder: Path, tmp_path: Path
) -> None:
    nodes = ["--nodes", "2", "--rendezvous", "10.213.7.1:29400", "--rendezvous-timeout", "60"]
    command = build_command(corpus_folder, tmp_path / "two", *nodes)
    run_in_networks([*namespaces, "bash", str(SCRIPT), str(tmp_path / "traffic"), *command], job_environment)
    assert find_processes(tmp_path / "two") == []
    # The cable is the only way between them: gradients of every step have gone over it.
    assert int((tmp_path / "traffic").read_text().split()[1]) > 500_000
    subprocess.run(
        build_command(corpus_folder, tmp_path / "one"), env=job_environment, check=True, capture_output=True
    )
    assert_same_training(tmp_path / "two", tmp_path / "one")
