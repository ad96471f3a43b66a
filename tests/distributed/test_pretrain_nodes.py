"""`biomedllama pretrain` as two nodes of this machine, through deaths and signals, to the weights of one process."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from node_commands import (
    assert_same_training,
    build_command,
    find_ports,
    find_processes,
    hold_at,
    read_losses,
    wait_until,
)

from biomedllama_cli.errors import ExitCode

Launcher = subprocess.Popen[str]
StartNodes = Callable[..., list[Launcher]]


@pytest.fixture(scope="module")
def one_process(
    job_environment: dict[str, str], corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the run of one process, which nothing disturbs."""
    run = tmp_path_factory.mktemp("runs") / "one"
    subprocess.run(build_command(corpus_folder, run), env=job_environment, check=True, capture_output=True)
    return run


@pytest.fixture
def start_nodes(job_environment: dict[str, str], corpus_folder: Path, tmp_path: Path) -> Iterator[StartNodes]:
    """Return a function that starts the launchers of two nodes with a process each, and waits for their training."""
    started: list[Launcher] = []

    def begin(run: Path, *options: str, held_at: int | None = None) -> list[Launcher]:
        nodes = ["--nodes", "2", "--rendezvous", f"127.0.0.1:{find_ports()}", *options]
        environment, module = job_environment, "biomedllama_cli"
        if held_at is not None:
            environment, module = hold_at(held_at, tmp_path / "held", job_environment), "held_command"
        launchers = [
            subprocess.Popen(
                [*build_command(corpus_folder, run, *nodes, module=module), "--node-rank", str(node)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for node in range(2)
        ]
        started.extend(launchers)
        return launchers

    yield begin
    for process in [*started, *find_processes(tmp_path / "run")]:
        process.kill()
    for launcher in started:
        launcher.communicate()


def wait_for_steps(run: Path, steps: int, launchers: list[Launcher]) -> None:
    wait_until(lambda: len(read_losses(run)) >= steps or any(each.poll() is not None for each in launchers))
    ended = [each.communicate() for each in launchers if each.poll() is not None]
    assert not ended, ended


def finish(launchers: list[Launcher]) -> list[tuple[int, str, str]]:
    return [
        (each.returncode, *told)
        for each, told in [(each, each.communicate(timeout=90)) for each in launchers]
    ]


def find_worker(launcher: Launcher) -> psutil.Process:
    (agent,) = psutil.Process(launcher.pid).children()
    return agent.children()[0]


def test_a_job_whose_worker_is_killed_goes_on_to_the_weights_of_an_undisturbed_run(
    start_nodes: StartNodes, one_process: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    launchers = start_nodes(run, "--max-restarts", "1", held_at=5)
    wait_for_steps(run, 5, launchers)
    find_worker(launchers[1]).kill()
    (tmp_path / "held").unlink(missing_ok=True)
    ends = finish(launchers)
    assert [code for code, *_ in ends] == [0, 0], ends
    assert all("Rank 1 of 2 was killed" in errors and "restart 1 of 1" in errors for *_, errors in ends)
    assert json.loads(ends[0][1])["resumed_step"] == 3
    assert ends[1][1] == ""
    assert_same_training(run, one_process)
    assert find_processes(run) == []


def test_a_signal_and_a_killed_launcher_lose_nothing_that_was_saved(
    start_nodes: StartNodes, one_process: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    launchers = start_nodes(run, held_at=4)
    wait_for_steps(run, 4, launchers)
    launchers[1].send_signal(signal.SIGUSR1)  # as a scheduler may, to one of the nodes
    ends = finish(launchers)
    assert [code for code, *_ in ends] == [ExitCode.RESUMABLE] * 2, ends
    assert find_processes(run) == []
    assert len(read_losses(run)) == 5
    assert (run / "checkpoints/step-00000005/COMPLETE").exists()

    launchers = start_nodes(run, held_at=7)
    wait_for_steps(run, 7, launchers)
    launchers[0].kill()
    code, output, _ = finish(launchers)[1]
    assert code == ExitCode.WORKER
    assert "Node 0 of 2 is gone" in json.loads(output)["error"]["message"]
    wait_until(lambda: find_processes(run) == [], seconds=30)

    ends = finish(start_nodes(run))
    assert [code for code, *_ in ends] == [0, 0], ends
    assert json.loads(ends[0][1])["resumed_step"] == 6
    assert_same_training(run, one_process)
