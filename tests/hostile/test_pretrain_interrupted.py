"""`pretrain` killed at random moments: the next start finds a whole checkpoint and ends with the same bytes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from evaluate_forks import build_environment

from biomedllama_cli.engine.sequence_frames import SEQUENCE_LOG, Start


def test_runs_that_were_killed_end_as_if_nothing_had_happened(repository: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, str(repository / "benchmarks" / "kill_pretrain.py")]
    command += ["--runs", "6", "--result", str(result)]
    environment = build_environment(repository) | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.exists(), ended.stderr
    runs = json.loads(result.read_text())["runs"]
    assert len({run["way"] for run in runs}) == 6
    assert [run["problems"] for run in runs] == [[]] * 6
    kills = [kill for run in runs for kill in run["kills"]]
    assert all(run["kills"] for run in runs), "a run had ended before it was killed"
    assert {kill["when"] for kill in kills} == {"any", "saving"}
    assert {kill["who"] for kill in kills} == {"all", "rank"}
    assert any(step > 0 for run in runs for step in run["starts"]), "no start went on from a checkpoint"
    assert any(kill["step"] is not None for kill in kills), "every run was killed before its first checkpoint"


def test_a_start_from_an_older_checkpoint_is_told(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    script = importlib.import_module("kill_pretrain")
    log, known = tmp_path / SEQUENCE_LOG, list[int]()
    assert script.look_at_start(tmp_path, known, None) == []
    for step, newest, problems in ((0, None, []), (3, 3, []), (3, 4, ["a start went on from 3, not from 4"])):
        with log.open("ab") as file:
            file.write(Start(step, {}).encode())
        assert script.look_at_start(tmp_path, known, newest) == problems
    assert known == [0, 3, 3]
    log.unlink()
    assert len(script.look_at_start(tmp_path, known, 4)) == 1


def test_a_run_without_a_kill_is_not_said_to_have_survived(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    script = importlib.import_module("kill_pretrain")
    killed = script.Run(0, "one process", [script.Kill("any", "all", 0.1, None)], [0])
    lines = script.summarise([killed, script.Run(1, "one process")])
    assert lines[0].startswith("1 runs of 12 steps")
    assert lines[1] == "1 more runs had ended before each kill and count for nothing."
