"""The throughput script for GPUs: its smoke run with tiny shapes on the CPU, in this process."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script's module, whose arms train in this process."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    module = importlib.import_module("pretrain_gpu")
    arm = importlib.import_module("pretrain_gpu_arm")
    monkeypatch.setattr(module, "run", arm.measure)
    monkeypatch.setattr(module, "CHANGES", {k: v for k, v in module.CHANGES.items() if "compile" not in v})
    return module


def test_a_smoke_run_measures_every_arm_or_says_why_not(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain_gpu.py", "--smoke"])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    arms = {line.split(":")[1].split("|")[0].strip(): line for line in lines if line.startswith("| tiny:")}
    assert set(arms) >= {*script.CHANGES, "best", script.WHOLE}
    for name in ("sdpa", "loss in chunks", "best", script.WHOLE):
        assert float(arms[name].split("|")[2].split()[0].replace(",", "")) > 0
    assert "it needs CUDA" in arms["flash_attention_2"]
    assert any(line.startswith("- tiny: MFU = tokens/s x FLOP per token / peak") for line in lines)


def test_the_numbers_are_those_of_the_steps(script: Any) -> None:
    measured = script.Measured(
        seconds=[2.0, 1.0, 4.0], waited=[0.01, 0.02, 0.04], step_tokens=8_000, matmul_parameters=1_000_000,
        flops_per_token=9e6, peak_flops=1e11, allocated_gib=1.0, reserved_gib=2.0, attention="flex",
    )  # fmt: skip
    assert script.describe("best", script.Arm(), measured) == (
        "| 7b: best | 4,000 (2,000-8,000) | 36.0% | 24.0% | 1.0 / 2.0 | 1.00% | flex |"
    )
    whole = script.Measured(seconds=[1.9], waited=[0.0], step_tokens=8_000)
    found = {"best": (script.Arm(), measured), script.WHOLE: (script.Arm(), whole)}
    lines, facts = script.judge("7b", found, {"best": [4_000.0, 4_100.0], script.WHOLE: [4_200.0, 4_305.0]})
    assert "4,050 tokens/s (4,000 to 4,100 in 2 runs; wanted: 10,643), 2.0 GiB" in lines[0]
    assert "one document are 1.050 (1.050 to 1.050) times as fast" in lines[0]
    assert facts["wait"] == pytest.approx(0.01)
    assert "are not measured times" in script.judge("7b", found, {"best": [], script.WHOLE: []})[0][0]
    assert script.judge("7b", {}, {}) == (["- 7b: nothing fits."], {})


def test_what_does_not_fit_is_not_the_best(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arm: Any) -> Any:
        if arm.compile:
            return script.Measured(error="out of memory")
        speed = {"none": 400.0, "selective": 300.0, "full": 200.0}[arm.activation_checkpointing]
        if arm.attention == "flex":
            speed *= 1.5
        taken = 140.0 if arm.activation_checkpointing == "none" else 100.0
        return script.Measured(seconds=[1 / speed], waited=[0.0], step_tokens=1, reserved_gib=taken)

    monkeypatch.setattr(script, "run", run)
    found = script.measure_shape(script.Arm(), 130.0)
    best = found["best"][0]
    assert (best.activation_checkpointing, best.attention, best.documents) == ("selective", "flex", "packed")
    assert found[script.WHOLE][0].documents == "whole"


def test_where_what_is_fast_does_not_fit_together_the_fastest_that_fits_is_the_best(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(arm: Any) -> Any:
        taken = 100.0 + 20.0 * (arm.attention == "flex") + 20.0 * (arm.data_workers == 0)
        speed = taken + (arm.activation_checkpointing == "none")
        return script.Measured(seconds=[1 / speed], waited=[0.0], step_tokens=1, reserved_gib=taken)

    monkeypatch.setattr(script, "run", run)
    found = script.measure_shape(script.Arm(), 130.0)
    assert found["best, but for memory"][1].reserved_gib == 140.0
    assert found["best"][1].reserved_gib == 120.0
    assert found[script.WHOLE][0].attention == found["best"][0].attention
    assert not script.judge("7b", found, script.repeat(found, 1))[0][0].endswith("nothing fits.")


def test_rounds_of_the_best_go_forwards_and_backwards(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def run(arm: Any) -> Any:
        order.append(arm.documents)
        return script.Measured() if len(order) == 3 else script.Measured(seconds=[0.5], step_tokens=4)

    monkeypatch.setattr(script, "run", run)
    first = script.Measured(seconds=[1.0], step_tokens=4)
    arms = {"best": script.Arm(), script.WHOLE: script.Arm(documents="whole")}
    speeds = script.repeat({name: (arm, first) for name, arm in arms.items()}, 4)
    assert order == ["whole", "packed", "packed", "whole", "whole", "packed"]
    assert speeds == {"best": [4.0, 8.0, 8.0], script.WHOLE: [4.0, 8.0, 8.0]}


def test_rows_are_filled_with_documents_of_one_or_of_many(script: Any) -> None:
    arm = importlib.import_module("pretrain_gpu_arm")
    sizes = {"sequence_length": 64, "vocabulary_size": 300, "step_rows": 4, "micro_batch_size": 2}
    documents = {}
    for kind in ("whole", "packed"):
        rows = arm.open_rows(arm.Arm(documents=kind, **sizes)).rows
        assert len(rows) == 4 * (8 + 3)
        documents[kind] = [int((rows[place]["position_ids"] == 0).sum()) for place in range(len(rows))]
    assert set(documents["whole"]) == {1}
    assert max(documents["packed"]) > 3
    assert sum(documents["packed"]) > 1.5 * len(documents["packed"])
