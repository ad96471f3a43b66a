"""Rows split over processes: the numbers of one process that has them whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

# Family and ranks that share a row, of every variant of context_worker.py.
VARIANTS = {
    "1x1x4": ("llama", 4),
    "1x2x2": ("llama", 2),
    "2x1x2": ("llama", 2),
    "1x2x2-windows": ("mistral", 2),
}
LENGTH, HIDDEN_SIZE = 32, 32


@pytest.fixture(scope="module")
def runs(run_ranks: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("context")
    run_ranks("context_worker.py", str(folder), world_size=1)
    run_ranks("context_worker.py", str(folder), world_size=4)
    return folder


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_ranks_that_share_rows_learn_what_one_learns(runs: Path, name: str) -> None:
    family, sharers = VARIANTS[name]
    alone, shared = read(runs, f"alone-{family}"), read(runs, name)
    assert shared["mesh"] == [int(size) for size in name.split("-")[0].split("x")]
    assert shared["mesh"][2] == sharers
    assert shared["targets"] == alone["targets"]
    assert shared["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert shared["norms"] == pytest.approx(alone["norms"], rel=1e-4)
    assert shared["held_out"] == pytest.approx(alone["held_out"], abs=1e-5)
    assert shared["losses"][-1] != pytest.approx(shared["losses"][0], abs=1e-3)
    expected, found = load_file(runs / f"alone-{family}.safetensors"), load_file(runs / f"{name}.safetensors")
    assert expected.keys() == found.keys()
    for weight, tensor in expected.items():
        torch.testing.assert_close(found[weight], tensor, rtol=0, atol=1e-5, msg=weight)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_rank_computes_its_part_of_a_row_alone(runs: Path, name: str) -> None:
    assert read(runs, name)["queries"] == [LENGTH // VARIANTS[name][1] * HIDDEN_SIZE]
