"""Launchers of several nodes: real processes that learn of each other's trouble, and one cause for all."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from node_commands import find_ports, find_processes, wait_until

from biomedllama_cli.engine.first_node import FirstNode
from biomedllama_cli.engine.node_line import Ending, Line, LostError
from biomedllama_cli.engine.other_node import OtherNode
from biomedllama_cli.engine.rank import check_tasks
from biomedllama_cli.errors import ExitCode, SettingsError, WorkerError
from biomedllama_cli.settings.pretrain import ParallelSettings

HERE = Path(__file__).resolve().parent
Nodes = Callable[..., list[subprocess.Popen[str]]]


@pytest.fixture
def start_node(job_environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Return a function that starts the launcher of one node, of one process, with a story of launch_stub.py."""
    paths = os.pathsep.join([str(HERE), job_environment["PYTHONPATH"]])
    started, port = [], find_ports()

    def begin(story: str, node: int, **more: object) -> subprocess.Popen[str]:
        parallel = {"nodes": 2, "node_rank": node, "rendezvous": f"127.0.0.1:{port}", **more}
        process = subprocess.Popen(
            [sys.executable, "-m", "launch_stub", story, str(tmp_path), "1"],
            env={**job_environment, "PYTHONPATH": paths, "STUB_PARALLEL": json.dumps(parallel)},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in [*started, *find_processes(tmp_path)]:
        process.kill()
    for process in started:
        process.wait()


@pytest.fixture
def start_nodes(start_node: Callable[..., subprocess.Popen]) -> Nodes:
    """Return a function that starts the launchers of two nodes."""
    return lambda story, **more: [start_node(story, node, **more) for node in range(2)]


def finish(launchers: list[subprocess.Popen[str]], seconds: float = 90) -> list[tuple[int, str]]:
    return [
        (process.returncode, errors)
        for process in launchers
        for errors in [process.communicate(timeout=seconds)[1]]
    ]


def test_all_nodes_show_the_cause_and_not_the_connection_that_it_broke(
    start_nodes: Nodes, tmp_path: Path
) -> None:
    (code_0, errors_0), (code_1, errors_1) = finish(start_nodes("lose_the_connection_to_a_killed_rank"))
    assert (code_0, code_1) == (ExitCode.WORKER, ExitCode.WORKER)
    assert "CrashError: Node 1 of 2: Rank 1 of 2 was killed" in errors_0
    assert "CrashError: Rank 1 of 2 was killed" in errors_1
    assert "Connection closed" not in errors_0
    assert find_processes(tmp_path) == []


def test_an_error_that_a_user_can_mend_ends_all_nodes_with_its_code(
    start_nodes: Nodes, tmp_path: Path
) -> None:
    ends = finish(start_nodes("fail_with_bad_data"))
    assert [code for code, _ in ends] == [ExitCode.DATA, ExitCode.DATA]
    assert ends[0][1].strip() == "DataError: Node 1 of 2: Shard 3 is broken. Run prepare again."
    assert ends[1][1].strip() == "DataError: Shard 3 is broken. Run prepare again."
    assert find_processes(tmp_path) == []


def test_all_nodes_start_again_together(start_nodes: Nodes, tmp_path: Path) -> None:
    ends = finish(start_nodes("be_killed_once", max_restarts=1))
    assert [code for code, _ in ends] == [0, 0], ends
    assert all("restart 1 of 1" in errors for _, errors in ends)
    told = [json.loads(path.read_text()) for path in tmp_path.glob("told-*.json")]
    assert sorted(facts["RANK"] for facts in told) == ["0", "1"]
    assert all(facts["arguments"][-2:] == ["--resume", "auto"] for facts in told)
    assert find_processes(tmp_path) == []


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_launcher_ends_the_other_node_within_seconds(
    start_nodes: Nodes, tmp_path: Path, victim: int
) -> None:
    launchers = start_nodes("sleep_without_listening")
    wait_until(lambda: len(list(tmp_path.glob("listening-*"))) == 2)
    launchers[victim].kill()
    code, errors = finish([launchers[1 - victim]], seconds=60)[0]
    assert code == ExitCode.WORKER
    assert f"Node {victim} of 2 is gone" in errors
    wait_until(lambda: find_processes(tmp_path) == [], seconds=30)


@pytest.mark.parametrize("whole_group", [False, True], ids=["agent", "group"])
def test_a_killed_agent_or_group_of_processes_ends_both_nodes(
    start_nodes: Nodes, tmp_path: Path, whole_group: bool
) -> None:
    launchers = start_nodes("sleep_without_listening")
    wait_until(lambda: len(list(tmp_path.glob("listening-*"))) == 2)
    (agent,) = psutil.Process(launchers[1].pid).children()
    (os.killpg if whole_group else os.kill)(agent.pid, signal.SIGKILL)
    ends = finish(launchers, seconds=60)
    assert [code for code, _ in ends] == [ExitCode.WORKER] * 2
    assert all("Rank 1 of 2 was killed" in errors for _, errors in ends)
    assert find_processes(tmp_path) == []


def test_a_node_whose_launcher_is_started_anew_joins_the_next_start(
    start_node: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    first, second = (start_node("sleep_before_restart", node, max_restarts=1) for node in range(2))
    wait_until(lambda: len(list(tmp_path.glob("listening-*"))) == 2)
    second.kill()
    ends = finish([first, start_node("sleep_before_restart", 1, max_restarts=1)])
    assert [code for code, _ in ends] == [0, 0], ends
    told = [json.loads(path.read_text()) for path in tmp_path.glob("told-*.json")]
    assert [facts["arguments"][-2:] for facts in told] == [["--resume", "auto"]] * 2


def test_an_interrupted_node_ends_the_others_like_itself(start_nodes: Nodes, tmp_path: Path) -> None:
    launchers = start_nodes("sleep_without_listening", max_restarts=3)
    wait_until(lambda: len(list(tmp_path.glob("listening-*"))) == 2)
    launchers[1].send_signal(signal.SIGTERM)
    assert [code for code, _ in finish(launchers)] == [ExitCode.INTERRUPTED] * 2
    assert find_processes(tmp_path) == []


@pytest.mark.parametrize(
    ("node", "said"),
    [(0, "Of 2 nodes, node 1 did not come within 1 s"), (1, "Node 0 did not start the job within 1 s")],
)
def test_a_node_that_does_not_come_is_named_in_time(node: int, said: str) -> None:
    with pytest.raises(WorkerError, match=said):
        open_node(node, find_ports(), timeout=1).start_together(0)


def test_a_port_of_the_launchers_that_is_taken_is_refused() -> None:
    port = find_ports()
    with (
        socket.create_server(("", port + 1)),
        pytest.raises(SettingsError, match=f"port {port + 1}, the one after"),
    ):
        open_node(0, port)


def test_a_launcher_that_is_stopped_while_it_waits_is_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        open_node(1, find_ports(), signals=lambda: 1).start_together(0)


def open_node(
    node: int, port: int, *, timeout: float = 20, signals: Callable[[], int] = lambda: 0, **more: int
) -> FirstNode | OtherNode:
    parallel = ParallelSettings(
        nodes=2, node_rank=node, rendezvous=f"127.0.0.1:{port}", rendezvous_timeout=timeout, **more
    )
    if node == 0:
        return FirstNode(parallel, port + 1, 1, signals)
    return OtherNode(parallel, ("127.0.0.1", port + 1), 1, signals)


class Paired:
    """Node 0 in this thread, and another in a second one."""

    def __init__(self, **other: int) -> None:
        import threading

        self.port = find_ports()
        self.first, self.other = open_node(0, self.port), open_node(1, self.port, **other)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._wait_for_start, daemon=True)
        self.thread.start()

    def _wait_for_start(self) -> None:
        try:
            self.other.start_together(0)
        except BaseException as error:
            self.error = error


def test_nodes_of_different_commands_are_refused_and_named(caplog: pytest.LogCaptureFixture) -> None:
    pair = Paired(max_restarts=2)
    pair.first._timeout = 1.5
    with pytest.raises(WorkerError, match="sent away: max_restarts is 0 on node 0, but 2 on node 1"):
        pair.first.start_together(0)
    assert "sent away: max_restarts is 0 on node 0, but 2 on node 1" in caplog.text
    pair.thread.join(10)
    assert isinstance(pair.error, SettingsError)
    assert "max_restarts is 0 on node 0, but 2 on node 1" in str(pair.error)
    pair.first.close()


@pytest.mark.parametrize("asked", [0, 1])
def test_a_node_that_leaves_between_two_starts_is_not_waited_for(
    asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.engine.first_node.CLOSE_SECONDS", 0.2)
    signals = [0, 0]
    port = find_ports()
    nodes = [open_node(node, port, signals=lambda node=node: signals[node]) for node in range(2)]
    ends: list[object] = []

    def restart(node: int) -> None:
        try:
            ends.append(nodes[node].start_together(1))
        except BaseException as error:
            ends.append(type(error))
        nodes[node].close()

    nodes[1]._connect(1)
    signals[asked] = 1
    for node in (asked, 1 - asked):
        restart(node)
    assert ends == [KeyboardInterrupt, KeyboardInterrupt]


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[" * 100_000 + b"\n",
        b'{"node": 1}\n',
        b'{"node": true, "nodes": 2}\n',
        b"\xff\n",
    ],
)
def test_a_stranger_on_the_port_changes_nothing(said: bytes) -> None:
    pair = Paired()
    with socket.create_connection(("127.0.0.1", pair.port + 1)) as stranger:
        stranger.sendall(said)
        assert pair.first.start_together(0) == 0
        pair.thread.join(10)
        assert not pair.first.others_failed()
        pair.other._line.send({"ending": {"kind": "done", "node": 1}})
        assert pair.first.agree(Ending("done", 0)).kind == "done"
    pair.other.close()
    pair.first.close()


def test_what_another_launcher_says_is_bounded_and_holds_no_terminal_commands() -> None:
    ending = Ending.from_message({"kind": "failed", "message": "\x1b]0;x\x07" + "a" * 10**5, "trace": ["no"]})
    assert len(ending.message) <= 2000
    assert "\x1b" not in ending.message
    assert ending.trace == ""
    for wrong in (
        {"kind": "exec"},
        {"kind": "failed", "exit_code": 9999},
        {"kind": "done", "node": -1},
        [],
        None,
    ):
        with pytest.raises(ValueError, match="no "):
            Ending.from_message(wrong)


def test_silence_is_a_loss_but_not_after_an_own_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("biomedllama_cli.engine.node_line.time.monotonic", lambda: now[0])
    here, there = socket.socketpair()
    with here, there:
        line = Line(here)
        now[0] += 1000  # stopped itself, as by a suspended laptop
        assert line.receive() == []
        for _ in range(4):
            now[0] += 9
            assert line.receive() == []
        now[0] += 9
        with pytest.raises(LostError, match="nothing was heard"):
            line.receive()


def test_srun_must_start_one_launcher_on_each_node() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    with pytest.raises(SettingsError, match="one task on each of them"):
        check_tasks(step, 2)
