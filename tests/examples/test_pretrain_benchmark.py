"""The scripts that measure pretraining: smoke runs of them, in this process and without the peers."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.cli.app import run as run_command


@pytest.fixture
def script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script's module, whose arms train in this process."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    module, arms = importlib.import_module("pretrain"), importlib.import_module("pretrain_arms")

    def start_arm(setting: Any, python: str, arm: str) -> Any:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        return arms.run_arm(setting, arm)

    monkeypatch.setattr(module, "start_arm", start_arm)
    return module


def test_all_arms_do_the_same_work_and_are_judged(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["pretrain.py", "--smoke", "--folder", str(tmp_path), "--threads", "1", "--precision", "fp32"]
    monkeypatch.setattr(sys, "argv", [*words, "--parts", "speed", "memory", "borders"])
    script.main()
    output = capsys.readouterr().out
    speed, memory, borders = (part.splitlines() for part in output.split("## ")[1:])
    for table, arms in ((speed, ["ours", "HF Trainer", "ours: plain", "ours: chunks"]),
                        (memory, ["ours: plain", "ours", "ours: chunks", "HF Trainer"])):  # fmt: skip
        rows = [line.strip("| ").split(" | ") for line in table if line.startswith("|")][2:]
        assert [row[0] for row in rows] == arms
        assert all(float(row[1].replace(",", "")) > 0 for row in rows)
    assert any(line.startswith("litgpt was left out: no --peers-folder") for line in speed)
    [apart] = [line for line in speed if line.startswith("Losses differ by")]
    assert float(apart.split()[3]) <= script.WANTED_LOSS["fp32"]
    assert "none needs 0.7 of HF Trainer's peak or less." in memory
    assert any(line.startswith("Speed with rows of one document / with rows of several") for line in borders)


def test_a_round_of_one_order_alone_is_refused(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--folder", str(tmp_path), "--rounds", "3"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    assert "--rounds is to be even" in capsys.readouterr().err


def test_rounds_go_forwards_and_backwards_and_a_peer_that_fails_is_left_out(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def start_arm(setting: Any, python: str, arm: str) -> str:
        order.append(arm)
        if arm == "litgpt" and len(order) > 3:
            raise RuntimeError("it broke")
        return arm

    monkeypatch.setattr(script, "start_arm", start_arm)
    missing: dict[str, str] = {}
    peers = {"litgpt": "python", "torchtitan": "python"}
    runs = script.measure(None, ["ours", *peers], 4, peers, missing)
    assert order == [*("ours", "litgpt", "torchtitan"), *("torchtitan", "litgpt", "ours"),
                     *("ours", "torchtitan"), *("torchtitan", "ours")]  # fmt: skip
    assert runs == {"ours": ["ours"] * 4, "torchtitan": ["torchtitan"] * 4}
    assert missing == {"litgpt": "it broke"}


def test_our_arm_compiles_as_the_command_does(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from biomedllama_cli.recipes import training

    compiled = []
    monkeypatch.setattr(training, "compile_layers", lambda model, device: compiled.append(device.type))
    setting = script.Setting(
        model=tmp_path / "model", rows=tmp_path / "rows.npy", starts=tmp_path / "starts.npy", steps=1, warmup=0,
        precision="fp32", device="cpu", threads=1, compiled=True, folder=tmp_path,
    )  # fmt: skip
    script.write_inputs(setting, script.SMOKE_SHAPE, 1, 32, seed=0)
    assert len(script.start_arm(setting, "", "ours").losses) == 1
    assert compiled == ["cpu"]


@pytest.mark.parametrize("name", ["pretrain_report", "report"])
def test_examples_in_the_scripts_hold(repository: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed


def test_a_plan_of_memory_is_held_against_its_run(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    script = importlib.import_module("pretrain_memory")

    def run(arguments: tuple[str, ...]) -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert run_command([*arguments, "--json"]) == 0
        return {"peak": 2**30, **json.loads(output.getvalue())}

    def prepare(workspace: Path) -> None:
        run(("prepare", "--sample", "--vocabulary-size=512", f"--workspace={workspace}"))

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script, "prepare_corpus", prepare)
    monkeypatch.setattr(
        script, "ARMS", (("--model=scratch:tiny", "--micro-batch-size=4", "--precision=fp32"),)
    )
    monkeypatch.setattr(sys, "argv", ["pretrain_memory.py", "--folder", str(tmp_path), "--no-result"])
    script.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["measured"] == 2**30
    assert found["off"] == pytest.approx(found["predicted"] / 2**30 - 1)
    assert found["predicted"] > 2**27
