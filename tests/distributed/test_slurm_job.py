"""`pretrain --slurm`: what is submitted, and the script really run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.cli.app import run
from biomedllama_cli.engine.saved_runs import list_checkpoints
from biomedllama_cli.engine.slurm_flags import check_slurm, parse_time_limit
from biomedllama_cli.engine.slurm_job import SlurmJob
from biomedllama_cli.errors import ExitCode, SettingsError
from biomedllama_cli.settings.pretrain import LaunchSettings, ParallelSettings

HERE = Path(__file__).resolve().parent
JOB = "4711"
STEPS = 80


class Cluster:
    """The stubs on PATH, and what they were given."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root, self.bin, self.kept = root, root / "bin", root / "kept"
        self.bin.mkdir()
        self.kept.mkdir()
        for name in ("sbatch", "squeue", "scontrol", "srun"):
            self.install(name, f"#!{sys.executable}\n{(HERE / 'slurm_commands.py').read_text()}")
        self.environment = {
            **environment,
            "PATH": f"{self.bin}{os.pathsep}{environment['PATH']}",
            "SLURM_STUB": str(self.kept),
        }

    def install(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    @property
    def submitted(self) -> dict[str, Any]:
        return json.loads((self.kept / "submitted.json").read_text())

    @property
    def requeues(self) -> int:
        path = self.kept / "requeued"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def start(self, script: Path) -> subprocess.Popen[str]:
        """Run a script as Slurm does: its copy, by bash, told the job and its nodes."""
        return subprocess.Popen(
            ["bash", str(script)],
            env={**self.environment, "SLURM_JOB_ID": JOB, "SLURM_JOB_NODELIST": "gpu[1-2]"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def cluster(tmp_path: Path, job_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(tmp_path, job_environment)
    for name in ("PATH", "SLURM_STUB"):
        monkeypatch.setenv(name, made.environment[name])
    return made


@pytest.fixture
def options(corpus_folder: Path) -> list[str]:
    chosen = ["--corpus", str(corpus_folder), "--model", "scratch:tiny", "--device", "cpu"]
    chosen += ["--precision", "fp32", "--max-steps", str(STEPS), "--epochs", "99", "--general", "none"]
    chosen += ["--sequence-length", "32", "--micro-batch-size", "2", "--global-batch-size", "8"]
    return [*chosen, "--validation-sequences", "8"]


def pretrain(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run(["pretrain", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def wait_for_line(file: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 180
    while not (file.exists() and '"step": 2' in file.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_job_told_to_save_is_queued_again_and_ends_its_run(
    cluster: Cluster, options: list[str], ended: list[subprocess.Popen[str]], capsys: Any
) -> None:
    folder = cluster.root / "a run"
    options += ["--output-dir", str(folder), "--slurm", "--nodes", "2", "--slurm-time", "1:00:00"]
    code, report = pretrain(
        capsys, *options, "--slurm-option=--partition=cpu", "--slurm-setup", "export SAID=1"
    )
    assert (code, report["status"], report["job"]) == (0, "submitted", JOB)
    script = Path(report["script"])
    assert cluster.submitted["flags"] == ["--parsable", f"--output={script.parent}/%j.log"]
    assert cluster.submitted["script"] == script.read_text() == report["script_text"]
    assert report["log"] == str(script.parent / f"{JOB}.log")
    assert not folder.exists()  # which a run would take for somebody else's
    # The setup's `python` is to be this one.
    cluster.install("python", f'#!/bin/sh\n[ "$SAID" = 1 ] && exec {sys.executable} "$@"\n')

    first = cluster.start(script)
    ended.append(first)
    wait_for_line(folder / "metrics.jsonl", first)
    first.send_signal(signal.SIGUSR1)
    output, errors = first.communicate(timeout=180)
    assert first.returncode == ExitCode.RESUMABLE, output + errors
    assert cluster.requeues == 1
    saved = list_checkpoints(folder)
    assert saved
    assert not (folder / "report.json").exists()

    second = cluster.start(script)
    ended.append(second)
    output, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert cluster.requeues == 1
    trained = json.loads(output)
    assert (trained["steps"], trained["world_size"]) == (STEPS, 2)
    assert trained["resumed_step"] == int(saved[-1].name.removeprefix("step-"))


def make_job(root: Path, **launch: Any) -> SlurmJob:
    settings = LaunchSettings(slurm=True, **launch)
    return SlurmJob(root / "run", root, ("pretrain",), settings, ParallelSettings(device="cpu"))


def run_script(cluster: Cluster, srun: str) -> tuple[int, str]:
    """Run a job's script with another srun; it may use $RUN."""
    cluster.environment["RUN"] = str(cluster.root / "run")
    cluster.install("srun", f"#!/bin/bash\n{srun}\n")
    job = make_job(cluster.root)
    job.folder.mkdir(exist_ok=True)
    job.script.write_text(job.build_script())
    process = cluster.start(job.script)
    return process.wait(timeout=60), process.communicate()[1]


def test_a_job_that_gets_nowhere_twice_is_not_queued_again(cluster: Cluster) -> None:
    progress = (
        'new="$RUN/checkpoints/step-0000000$(ls "$RUN/checkpoints" 2>/dev/null | wc -l)"; mkdir -p "$new"; '
    )
    progress += 'touch "$new/COMPLETE"; exit 75'
    assert run_script(cluster, "exit 75")[0] == ExitCode.RESUMABLE
    assert cluster.requeues == 1
    assert run_script(cluster, progress)[0] == ExitCode.RESUMABLE
    assert cluster.requeues == 2
    run_script(cluster, "exit 75")
    assert cluster.requeues == 3
    code, errors = run_script(cluster, "exit 75")
    assert (code, cluster.requeues) == (ExitCode.RESUMABLE, 3)
    assert "not queued again" in errors


def test_a_job_that_fails_ends_with_the_run_s_code(cluster: Cluster) -> None:
    assert run_script(cluster, "exit 3")[0] == ExitCode.DATA
    assert cluster.requeues == 0


def test_a_job_that_slurm_ends_saves_and_is_left_to_slurm(cluster: Cluster) -> None:
    # As scancel does: the batch script gets a TERM, which the step must get as USR1.
    waiting = (
        'trap "exit 75" USR1; trap "exit 1" TERM; kill -TERM $PPID; for i in {1..100}; do sleep 0.1; done'
    )
    code, errors = run_script(cluster, waiting)
    assert (code, cluster.requeues) == (ExitCode.RESUMABLE, 0)
    assert "Slurm ended the job" in errors


def test_a_dry_run_shows_plan_and_script_and_writes_nothing(
    cluster: Cluster, options: list[str], capsys: Any
) -> None:
    folder = cluster.root / "dry"
    options += ["--output-dir", str(folder), "--slurm", "--slurm-time", "0:20:00", "--dry-run"]
    code, report = pretrain(capsys, *options)
    assert (code, report["status"], report["job"]) == (0, "would submit", None)
    assert report["plan"]["steps"] == STEPS
    assert run(["pretrain", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "--dry-run" not in report["script_text"]  # it is the script that would be submitted
    for expected in ("#SBATCH --time=0:20:00", "#SBATCH --signal=B:USR1@600", "#SBATCH --requeue"):
        assert expected in lines
    assert not folder.exists()
    assert not Path(report["script"]).parent.exists()
    assert list(cluster.kept.iterdir()) == []


def test_a_job_without_a_device_is_planned_on_gpus(cluster: Cluster, options: list[str], capsys: Any) -> None:
    options = [each for each in options if each not in ("--device", "cpu")]
    options += ["--num-processes", "2", "--nodes", "2", "--output-dir", str(cluster.root / "run")]
    code, report = pretrain(capsys, *options, "--slurm", "--dry-run")
    assert (code, report["plan"]["device"], report["plan"]["world_size"]) == (0, "cuda", 4)
    assert "#SBATCH --gpus-per-node=2" in report["script_text"].splitlines()


def test_what_slurm_refuses_or_has_already_is_said(cluster: Cluster, options: list[str], capsys: Any) -> None:
    options += ["--output-dir", str(cluster.root / "run"), "--slurm"]
    code, report = pretrain(capsys, *options, "--slurm-option=--partition=reject-me")
    assert code == ExitCode.WORKER
    assert "invalid partition specified" in report["error"]["message"]
    assert pretrain(capsys, *options)[0] == 0
    (cluster.kept / "waiting").touch()
    code, report = pretrain(capsys, *options)
    assert code == ExitCode.OUTPUT
    assert f"Slurm job {JOB}" in report["error"]["message"]


def test_a_machine_without_sbatch_says_so(
    cluster: Cluster, options: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(cluster.root))
    code, report = pretrain(capsys, *options, "--slurm")
    assert code == ExitCode.UNAVAILABLE
    assert "no sbatch" in report["error"]["message"]


@pytest.mark.parametrize(
    ("launch", "parallel", "resume", "said"),
    [
        ({"slurm_time": "5:00"}, {}, "auto", "300 seconds, but must be more than slurm_save_seconds"),
        ({"slurm_time": "a day"}, {}, "auto", "slurm_time is 'a day'"),
        ({"slurm_option": ("--nodes=3",)}, {}, "auto", "pretrain gives --nodes itself"),
        ({"slurm_option": ("-t9",)}, {}, "auto", "pretrain gives -t9 itself"),
        ({"slurm_option": ("--a=b\nrm",)}, {}, "auto", "is not one option of sbatch"),
        ({}, {"num_processes": None}, "auto", "num_processes must be given"),
        ({}, {"nodes": 2, "node_rank": 0}, "auto", "node_rank is 0"),
        ({}, {"nodes": 2, "rendezvous": "a:1"}, "auto", "rendezvous is a:1"),
        ({"print_launch": True}, {}, "auto", "print_launch and slurm"),
        ({}, {}, "never", "resume is never"),
    ],
)
def test_what_cannot_be_submitted_is_refused(
    launch: dict[str, Any], parallel: dict[str, Any], resume: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        check_slurm(LaunchSettings(**launch), ParallelSettings(**{"num_processes": 8, **parallel}), resume)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 5400), ("90:30", 5430), ("1-1:1:1", 90061), ("1-1:1", 90060)]
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, seconds: int) -> None:
    assert parse_time_limit(text) == seconds


def test_gpus_and_cores_follow_from_the_processes_unless_the_user_says(tmp_path: Path) -> None:
    def list_options(parallel: ParallelSettings, *given: str) -> list[str]:
        launch = LaunchSettings(slurm_option=given)
        text = SlurmJob(tmp_path / "run", tmp_path, ("pretrain",), launch, parallel).build_script()
        lines = [line for line in text.splitlines() if line.startswith("#SBATCH")]
        return [line.removeprefix("#SBATCH ") for line in lines]

    gpus = ParallelSettings(num_processes=8, nodes=4)
    assert {"--nodes=4", "--gpus-per-node=8", "--cpus-per-task=16"} <= set(list_options(gpus))
    said = list_options(gpus, "--gres=gpu:h200:8", "--exclusive", "-Jmine")
    assert said[-3:] == ["--gres=gpu:h200:8", "--exclusive", "-Jmine"]
    assert not [each for each in said if each.startswith(("--gpus", "--cpus", "--job-name"))]
    cpus = list_options(ParallelSettings(num_processes=3, device="cpu", data_workers=1))
    assert "--cpus-per-task=6" in cpus
    assert not any("gpus" in each for each in cpus)
