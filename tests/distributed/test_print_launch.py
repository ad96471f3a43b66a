"""`pretrain --print-launch`: commands that do what this one would."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.cli.app import run
from biomedllama_cli.engine.launch import build_environment, launch_if_needed
from biomedllama_cli.engine.launch_text import describe_launch
from biomedllama_cli.engine.rank import EXPECTED_WORLD_SIZE, LAUNCHER, OUTCOME
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.pretrain import ParallelSettings


def test_the_printed_command_trains_as_its_processes_would(
    corpus_folder: Path, job_environment: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "a run"
    options = [
        "--json",
        "--corpus",
        str(corpus_folder),
        "--output-dir",
        str(folder),
        "--model",
        "scratch:tiny",
    ]
    options += ["--device", "cpu", "--num-processes", "2", "--precision", "fp32", "--max-steps", "3"]
    options += ["--sequence-length", "32", "--global-batch-size", "8", "--general", "none"]
    assert run(["pretrain", *options, "--print-launch", "--dry-run"]) == 0
    (command,) = json.loads(capsys.readouterr().out)["commands"]
    assert not folder.exists()
    done = subprocess.run(
        command, shell=True, env=job_environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["status"], report["world_size"], report["steps"]) == ("trained", 2, 3)


def test_there_is_one_command_for_each_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("biomedllama_cli.engine.launch.count_cores", lambda: 12)
    parallel = ParallelSettings(nodes=3, num_processes=4, device="cpu", rendezvous="gpu01:29500")
    given = ["pretrain", "--node-rank", "0", "--model", "a b"]
    commands = [shlex.split(line) for line in describe_launch(parallel, given).lines()]
    assert len(commands) == 3
    for node, words in enumerate(commands):
        start = words.index(sys.executable)
        variables = dict(word.split("=") for word in words[:start])
        started_with = build_environment(tmp_path, 4, on_cpu=True, nodes=3)
        assert (variables["OMP_NUM_THREADS"], variables["ACCELERATE_USE_CPU"]) == ("3", "true")
        assert variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "3600"
        assert variables.items() <= started_with.items()
        ours = {OUTCOME, LAUNCHER, EXPECTED_WORLD_SIZE}
        assert {name for name in started_with if name not in os.environ} <= {*variables, *ours}
        assert words[start : start + 3] == [sys.executable, "-m", "accelerate.commands.launch"]
        assert words.count("--node-rank") == 1
        named = dict(itertools.pairwise(words))
        assert named["--machine_rank"] == named["--node-rank"] == str(node)
        assert (named["--num_processes"], named["--num_machines"]) == ("12", "3")
        assert (named["--main_process_ip"], named["--main_process_port"]) == ("gpu01", "29500")
        assert named["--model"] == "a b"


def test_a_command_that_would_be_refused_is_not_printed() -> None:
    with pytest.raises(SettingsError, match="dp_shard_size 3"):
        describe_launch(ParallelSettings(num_processes=4, dp_shard_size=3, device="cpu"), ["pretrain"])


def test_nodes_that_do_not_know_where_to_meet_have_no_command() -> None:
    with pytest.raises(SettingsError, match="rendezvous must be given"):
        describe_launch(ParallelSettings(nodes=2, device="cpu"), ["pretrain"])


@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"nodes": 2, "rendezvous": "gpu01:29500"}])
@pytest.mark.parametrize("gpus", [0, 1])
def test_a_command_for_gpus_is_printed_where_there_are_none_or_fewer(
    asked: dict[str, Any], gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.engine.launch_text.count_gpus", lambda: gpus)
    parallel = ParallelSettings.model_validate({"num_processes": 4, **asked})
    for line in describe_launch(parallel, ["pretrain"]).lines():
        assert f"--num_processes {4 * parallel.nodes}" in line
        assert "ACCELERATE_USE_CPU" not in line


@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"nodes": 2, "rendezvous": "gpu01:29500"}])
def test_gpus_that_cannot_be_counted_must_be_said(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.engine.launch_text.count_gpus", lambda: 0)
    with pytest.raises(SettingsError, match="num_processes must be given"):
        describe_launch(ParallelSettings.model_validate(asked), ["pretrain"])


def test_that_one_machine_without_gpus_makes_a_command_for_cpus_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("biomedllama_cli.engine.launch_text.count_gpus", lambda: 0)
    (line,) = describe_launch(ParallelSettings(num_processes=2), ["pretrain"]).lines()
    assert "ACCELERATE_USE_CPU=true" in line
    assert "the command is for CPUs" in caplog.text


@pytest.mark.parametrize(("rank", "warned"), [("0", True), ("1", False)])
def test_restarts_that_another_launcher_would_have_to_do_are_not_promised(
    rank: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert launch_if_needed(ParallelSettings(max_restarts=3), []) is None
    assert ("max_restarts is 3" in caplog.text) == warned
    caplog.clear()
    describe_launch(ParallelSettings(max_restarts=3, device="cpu"), ["pretrain"])
    assert "max_restarts is 3" in caplog.text
