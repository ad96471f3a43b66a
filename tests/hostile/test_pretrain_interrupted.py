"""`pretrain` killed at random moments: the next start finds a whole checkpoint and ends with the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from evaluate_forks import build_environment


def test_runs_that_were_killed_end_as_if_nothing_had_happened(repository: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, str(repository / "benchmarks" / "kill_pretrain.py")]
    command += ["--runs", "8", "--result", str(result)]
    environment = build_environment(repository) | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.exists(), ended.stderr
    runs = json.loads(result.read_text())["runs"]
    assert len(runs) == 8
    assert [run["problems"] for run in runs] == [[]] * 8
    kills = [kill for run in runs for kill in run["kills"]]
    assert len(kills) >= 8
    assert {kill["when"] for kill in kills} == {"any", "saving"}
    assert any(kill["step"] is not None for kill in kills), "every run was killed before its first checkpoint"
