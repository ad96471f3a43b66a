"""Adapters on four processes, sharded and replicated: the numbers of one process, and cheap checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapted
import pytest
from safetensors.torch import load_file

EXACT = ["lora-2x2", "lora-1x4", "dora-2x2", "lora-copies"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def runs(run_ranks: Callable[..., None], folder: Path) -> dict[int, dict[str, Any]]:
    """Train every variant in one process and in four; every test below reads the same runs."""
    base = adapted.build_base(folder / "base")
    (base / "tokenizer").mkdir()
    reports = {}
    for world_size in (1, 4):
        run_ranks("adapter_worker.py", str(base), str(folder), world_size=world_size)
        reports[world_size] = json.loads((folder / f"report-{world_size}.json").read_text())
    return reports


def weights(folder: Path, name: str, step: int = 6) -> dict[str, Any]:
    return load_file(folder / name / "checkpoints" / f"step-{step:08d}" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", EXACT)
def test_losses_and_adapters_equal_those_of_one_process(
    runs: dict[int, dict[str, Any]], folder: Path, name: str
) -> None:
    for what in ("losses", "norms"):
        assert runs[4][name][what] == pytest.approx(runs[1][name][what], abs=2e-5)
    assert runs[1][name]["losses"][0] != runs[1][name]["losses"][-1]
    found, expected = weights(folder, f"{name}-4"), weights(folder, f"{name}-1")
    assert found.keys() == expected.keys()
    for key in expected:
        assert (found[key] - expected[key]).abs().max() < 1e-4, key


def test_a_frozen_base_in_bf16_trains_beside_adapters_in_fp32(
    runs: dict[int, dict[str, Any]], folder: Path
) -> None:
    assert runs[4]["lora-2x2-bf16"]["losses"] == pytest.approx(runs[1]["lora-2x2-bf16"]["losses"], abs=0.05)
    tensor = next(iter(weights(folder, "lora-2x2-bf16-4").values()))
    assert str(tensor.dtype) == "torch.float32"
    assert not (tensor == tensor.bfloat16().float()).all(), "updates smaller than a bf16 step are kept"


def test_saving_gathers_what_is_trained_alone(runs: dict[int, dict[str, Any]], folder: Path) -> None:
    trained = sum(tensor.numel() for tensor in weights(folder, "lora-2x2-4").values())
    # Every trained tensor and its two moments, once.
    assert trained <= runs[4]["lora-2x2"]["gathered"] <= 3 * trained + 100 < runs[4]["lora-2x2"]["frozen"]
    assert runs[1]["lora-2x2"]["gathered"] == 0


@pytest.mark.parametrize("saved_by", [1, 4])
def test_four_processes_go_on_from_a_checkpoint_of_one_and_of_four(
    runs: dict[int, dict[str, Any]], saved_by: int
) -> None:
    expected = runs[1]["lora-2x2"]["losses"][3:]
    assert runs[4][f"resumed-{saved_by}"]["losses"] == pytest.approx(expected, abs=2e-5)
