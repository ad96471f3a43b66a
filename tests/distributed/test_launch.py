"""The launcher: real processes, one answer, nothing left behind."""

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

import psutil
import pytest
from node_commands import find_ports

from biomedllama_cli.engine.job_signals import JobSignals
from biomedllama_cli.engine.launch import build_environment, count_processes
from biomedllama_cli.engine.rank import OUTCOME, find_outer_launcher, run_as_rank, slurm_to_torch
from biomedllama_cli.engine.rendezvous import check_nodes, find_interface
from biomedllama_cli.errors import ExitCode, SettingsError
from biomedllama_cli.settings.pretrain import ParallelSettings

HERE = Path(__file__).resolve().parent


class Started:
    """A running launch of the stub, found again by its folder."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder

    def wait_until_listening(self, ranks: int) -> None:
        wait_until(
            lambda: len(list(self.folder.glob("listening-*"))) == ranks or self.process.poll() is not None
        )
        assert self.process.poll() is None, self.process.communicate()

    def finish(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=180)
        return self.process.returncode, errors

    def left_behind(self) -> list[list[str]]:
        return [
            process.info["cmdline"]
            for process in psutil.process_iter(["cmdline", "status"])
            if str(self.folder) in (process.info["cmdline"] or []) and process.info["status"] != "zombie"
        ]


def wait_until(holds: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def start(job_environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Return a function that starts a story of launch_stub.py."""
    started: list[Started] = []

    def begin(story: str, *processes: int, before: list[str] | None = None, **variables: str) -> Started:
        paths = os.pathsep.join([str(HERE), job_environment["PYTHONPATH"]])
        command = [
            *(before or [sys.executable, "-m", "launch_stub"]),
            story,
            str(tmp_path),
            *map(str, processes),
        ]
        process = subprocess.Popen(
            command,
            env={**job_environment, "PYTHONPATH": paths, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(Started(process, tmp_path))
        return started[-1]

    yield begin
    for each in started:
        each.process.kill()
        each.process.wait()
        for process in psutil.process_iter(["cmdline"]):
            if str(tmp_path) in (process.info["cmdline"] or []):
                process.kill()


def read_told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("told-*.json")]


def test_four_real_processes_start_on_cpus_with_the_same_arguments(start, tmp_path) -> None:
    code, errors = start("tell", 4).finish()
    assert code == 0, errors
    told = read_told(tmp_path)
    assert sorted(facts["RANK"] for facts in told) == ["0", "1", "2", "3"]
    assert {facts["WORLD_SIZE"] for facts in told} == {"4"}
    assert {facts["MASTER_ADDR"] for facts in told} == {"127.0.0.1"}
    assert all(facts["arguments"] == ["tell", str(tmp_path), "4"] for facts in told)


def test_one_process_is_not_launched(start, tmp_path) -> None:
    assert start("tell", 1).finish()[0] == 0
    assert [facts["RANK"] for facts in read_told(tmp_path)] == [None]


def test_an_accelerate_configuration_of_the_user_changes_nothing(start, tmp_path) -> None:
    home = tmp_path / "home" / "accelerate"
    home.mkdir(parents=True)
    (home / "default_config.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: fp16\nuse_cpu: true\n"
        "debug: false\nnum_processes: 1\nnum_machines: 1\nmachine_rank: 0\n"
    )
    code, errors = start("tell", 2, HF_HOME=str(tmp_path / "home")).finish()
    assert code == 0, errors
    assert sorted(facts["RANK"] for facts in read_told(tmp_path)) == ["0", "1"]


def test_a_rank_s_own_error_becomes_the_launcher_s(start) -> None:
    launched = start("fail_with_bad_data", 2)
    code, errors = launched.finish()
    assert code == ExitCode.DATA
    assert errors.strip() == "DataError: Shard 3 is broken. Run prepare again."
    assert launched.left_behind() == []


def test_an_unexpected_error_of_a_rank_is_shown_with_its_traceback(start) -> None:
    launched = start("fail_unexpectedly", 2)
    code, errors = launched.finish()
    assert code == ExitCode.WORKER
    assert "Rank 1 of 2 failed: ZeroDivisionError: a bug of ours" in errors
    assert "in fail_unexpectedly" in errors
    assert launched.left_behind() == []


@pytest.mark.parametrize("story", ["be_killed", "be_killed_while_another_hangs"])
def test_a_killed_rank_is_named(start, story: str) -> None:
    launched = start(story, 2)
    code, errors = launched.finish()
    assert code == ExitCode.WORKER
    assert "Rank 1 of 2 was killed" in errors
    assert launched.left_behind() == []


def test_a_rank_that_dies_in_a_library_shows_where_it_was(start) -> None:
    launched = start("die_in_a_library", 2)
    code, errors = launched.finish()
    assert code == ExitCode.WORKER
    assert "Fatal Python error: Aborted" in errors
    assert "in die_in_a_library" in errors
    assert launched.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_every_rank_which_saves_and_the_exit_code_says_so(
    start, number: signal.Signals
) -> None:
    launched = start("wait_for_a_signal", 2)
    launched.wait_until_listening(2)
    launched.process.send_signal(number)
    code, errors = launched.finish()
    assert (code, errors.strip()) == (
        ExitCode.RESUMABLE,
        "Resumable: Stopped by a signal after step 7; saved. The same command continues.",
    )
    assert launched.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_before_training_interrupts(start, number: signal.Signals) -> None:
    launched = start("sleep_without_listening", 2)
    launched.wait_until_listening(2)
    launched.process.send_signal(number)
    code, errors = launched.finish()
    assert (code, errors) == (ExitCode.INTERRUPTED, "")
    assert launched.left_behind() == []


def test_a_job_whose_process_died_is_started_again_from_its_newest_checkpoint(start, tmp_path) -> None:
    launched = start("be_killed_once", 2, STUB_PARALLEL='{"max_restarts": 1}')
    code, errors = launched.finish()
    assert code == 0, errors
    assert "Rank 1 of 2 was killed" in errors
    assert "restart 1 of 1" in errors
    assert [facts["arguments"][-2:] for facts in read_told(tmp_path)] == [["--resume", "auto"]] * 2
    assert launched.left_behind() == []


def test_a_single_process_is_started_again_too(start, tmp_path) -> None:
    launched = start("be_killed_once", 1, STUB_PARALLEL='{"max_restarts": 1}')
    code, errors = launched.finish()
    assert code == 0, errors
    assert "Rank 0 of 1 was killed" in errors
    assert [facts["arguments"][-2:] for facts in read_told(tmp_path)] == [["--resume", "auto"]]


@pytest.mark.parametrize("where", ["flag", "environment", "file"])
def test_restarts_and_a_checkpoint_to_go_back_to_exclude_each_other(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from biomedllama_cli.cli.app import run

    arguments = ["pretrain", "--model", "scratch:tiny", "--max-restarts", "1"]
    if where == "flag":
        arguments += ["--resume", "run/checkpoints/step-1"]
    elif where == "environment":
        monkeypatch.setenv("BIOMEDLLAMA_RESUME", "run/checkpoints/step-1")
    else:
        (tmp_path / "settings.yaml").write_text("resume: run/checkpoints/step-1\n")
        arguments += ["--config", str(tmp_path / "settings.yaml")]
    assert run(arguments) == ExitCode.USAGE
    assert "each restart would go back there" in " ".join(capsys.readouterr().err.split())


def test_a_signal_that_comes_when_all_is_done_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OUTCOME, str(tmp_path))
    monkeypatch.delenv("RANK", raising=False)
    with JobSignals() as signals:  # a launcher between the end of its processes and its own
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.came
        assert run_as_rank(lambda: 3) == 3
        os.kill(os.getpid(), signal.SIGTERM)  # a rank that leaves
        assert signals.numbers == [signal.SIGTERM]
    assert (tmp_path / "0.done").exists()


def test_two_launchers_on_their_nodes_are_one_job(start, tmp_path) -> None:
    port = find_ports()
    nodes = [{"nodes": 2, "node_rank": rank, "rendezvous": f"127.0.0.1:{port}"} for rank in range(2)]
    launched = [start("tell", 1, STUB_PARALLEL=json.dumps(node)) for node in nodes]
    ends = [each.finish() for each in launched]
    assert [code for code, _ in ends] == [0, 0], ends
    told = read_told(tmp_path)
    assert sorted(facts["RANK"] for facts in told) == ["0", "1"]
    assert {(facts["WORLD_SIZE"], facts["LOCAL_WORLD_SIZE"]) for facts in told} == {("2", "1")}
    assert {facts["GLOO_SOCKET_IFNAME"] for facts in told} == {find_interface("127.0.0.1", port)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nodes": 2}, "node_rank must be given"),
        ({"nodes": 2, "node_rank": 0}, "rendezvous must be given"),
        ({"nodes": 2, "node_rank": 2, "rendezvous": "a:1"}, "must be below the number of nodes, which is 2"),
        ({"node_rank": 1}, "must be below the number of nodes, which is 1"),
        ({"rendezvous": "a:1"}, "nodes is 1"),
        ({"nodes": 2, "node_rank": 0, "rendezvous": "a"}, "must be HOST:PORT"),
        ({"nodes": 2, "node_rank": 0, "rendezvous": "a:70000"}, "must be HOST:PORT"),
    ],
)
def test_what_is_said_of_nodes_must_be_whole_and_agree(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        check_nodes(ParallelSettings(**given))


def test_a_killed_launcher_leaves_no_orphans(start) -> None:
    launched = start("sleep_without_listening", 2)
    launched.wait_until_listening(2)
    assert len(launched.left_behind()) == 4  # launcher, agent, two ranks
    launched.process.kill()
    launched.process.wait()
    wait_until(lambda: launched.left_behind() == [], seconds=30)


def test_under_torchrun_it_does_not_launch_again(start, tmp_path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    code, errors = start("tell", before=[*torchrun, "-m", "launch_stub"]).finish()
    assert code == 0, errors
    assert sorted(facts["RANK"] for facts in read_told(tmp_path)) == ["0", "1"]


def test_under_plain_accelerate_launch_it_does_not_launch_again(start, tmp_path) -> None:
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    accelerate += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--module"]
    code, errors = start("tell", 2, before=[*accelerate, "launch_stub"]).finish()
    assert code == 0, errors
    assert len(read_told(tmp_path)) == 1


def test_under_srun_it_does_not_launch_again_and_speaks_torch_s_language(start, tmp_path) -> None:
    slurm = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "77"}
    slurm |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    code, errors = start("tell", 2, **slurm, SLURM_STEP_NODELIST="gpu[07-08]").finish()
    assert code == 0, errors
    (told,) = read_told(tmp_path)
    assert (told["RANK"], told["LOCAL_RANK"], told["WORLD_SIZE"]) == ("3", "1", "4")
    assert (told["LOCAL_WORLD_SIZE"], told["MASTER_ADDR"]) == ("2", "gpu07")


def test_slurm_s_own_rank_0_and_the_others_agree_where_to_meet() -> None:
    step = {"SLURM_JOB_ID": "123", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "3"}
    step |= {"SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NODELIST": "b[3,9]"}
    ranks = [
        slurm_to_torch({**step, "SLURM_PROCID": str(rank), "SLURM_NODEID": node, "SLURM_LOCALID": local})
        for rank, node, local in ((0, "0", "0"), (1, "0", "1"), (2, "1", "0"))
    ]
    assert len({(rank["MASTER_ADDR"], rank["MASTER_PORT"]) for rank in ranks}) == 1
    assert [rank["LOCAL_WORLD_SIZE"] for rank in ranks] == ["2", "2", "1"]


def test_slurm_variables_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="4 tasks"):
        slurm_to_torch(
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
        )


def test_a_job_without_a_local_rank_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"WORLD_SIZE \(2\) announce a job, but LOCAL_RANK is not set"):
        find_outer_launcher({"RANK": "0", "WORLD_SIZE": "2"})


def test_a_mesh_that_does_not_fit_is_refused_before_anything_starts(start) -> None:
    from biomedllama_cli.engine.launch import launch_if_needed

    parallel = ParallelSettings(num_processes=4, dp_replicate_size=2, dp_shard_size=4, device="cpu")
    with pytest.raises(SettingsError, match=r"2 x dp_shard_size 4 = 8.*which is 4"):
        launch_if_needed(parallel, [])


def test_processes_of_the_cpu_are_one_unless_asked() -> None:
    assert count_processes(ParallelSettings(device="cpu")) == 1
    assert count_processes(ParallelSettings(device="cpu", num_processes=3)) == 3


def test_each_process_gets_its_share_of_the_cores_unless_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.engine.launch.count_cores", lambda: 10)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert build_environment(tmp_path, 4, on_cpu=True)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert build_environment(tmp_path, 4, on_cpu=True)["OMP_NUM_THREADS"] == "5"


def test_the_agent_waits_for_ranks_that_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    assert build_environment(tmp_path, 4, on_cpu=True)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "3600"
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "60")
    assert build_environment(tmp_path, 4, on_cpu=True)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "60"


def test_an_import_that_fails_is_reported_by_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from biomedllama_cli.cli.app import run

    failures = []

    def note_failure(story: Callable[[], object]) -> None:
        with pytest.raises(ImportError) as caught:
            story()
        failures.append(caught.value)

    monkeypatch.setitem(sys.modules, "biomedllama_cli.recipes.pretrain", None)
    monkeypatch.setattr("biomedllama_cli.engine.rank.run_as_rank", note_failure)
    monkeypatch.setattr("biomedllama_cli.engine.launch.launch_if_needed", lambda settings, arguments: None)
    assert run(["pretrain", "--model", "scratch:tiny"]) == 0
    assert len(failures) == 1
