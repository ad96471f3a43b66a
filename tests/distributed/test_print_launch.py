"""`pretrain --print-launch`: commands that do what this one would."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.cli.app import run
from biomedllama_cli.engine.launch_text import describe_launch
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
    assert run(["pretrain", *options, "--print-launch"]) == 0
    (command,) = json.loads(capsys.readouterr().out)["commands"]
    assert not folder.exists()
    done = subprocess.run(
        command, shell=True, env=job_environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["status"], report["world_size"], report["steps"]) == ("trained", 2, 3)


def test_there_is_one_command_for_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("biomedllama_cli.engine.launch_text.count_cores", lambda: 12)
    parallel = ParallelSettings(nodes=3, num_processes=4, device="cpu", rendezvous="gpu01:29500")
    given = ["pretrain", "--model", "a b"]
    commands = [shlex.split(line) for line in describe_launch(parallel, given).lines()]
    assert len(commands) == 3
    for node, words in enumerate(commands):
        assert words[:2] == ["OMP_NUM_THREADS=3", "ACCELERATE_USE_CPU=true"]
        assert words[2:5] == [sys.executable, "-m", "accelerate.commands.launch"]
        named = dict(itertools.pairwise(words))
        assert named["--machine_rank"] == named["--node-rank"] == str(node)
        assert (named["--num_processes"], named["--num_machines"]) == ("12", "3")
        assert (named["--main_process_ip"], named["--main_process_port"]) == ("gpu01", "29500")
        assert named["--model"] == "a b"


def test_nodes_that_do_not_know_where_to_meet_have_no_command() -> None:
    with pytest.raises(SettingsError, match="rendezvous must be given"):
        describe_launch(ParallelSettings(nodes=2, device="cpu"), ["pretrain"])
