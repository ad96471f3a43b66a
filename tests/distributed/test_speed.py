"""What saves time or memory, on two processes: gradients stay those of one process in plain PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from biomedllama_cli.engine.layer_compiler import find_compile_obstacle

VARIANTS = [
    "fused-full",
    "fused-full-tied",
    "fused-copies",
    "fused-copies-tied",
    "chunks-full",
    "chunks-copies-tied",
    "plain-full",
    "none-full",
    "whole-full",
    "selective-full",
    "selective-copies",
    "selective-lora",
    "none-shared",
    "selective-shared",
    "all-full",
]
COMPILED = ["compiled-full", "compiled-copies"]
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def runs(run_ranks: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speed")
    run_ranks("speed_worker.py", str(folder), *VARIANTS, world_size=2)
    return folder


def read(path: Path) -> tuple[Gradients, dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def check(folder: Path, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    expected, metadata = read(folder / f"reference-{facts['kind']}.safetensors")
    found, _ = read(folder / f"{name}.safetensors")
    assert facts["loss"] == pytest.approx(float(metadata["loss"]), abs=1e-5)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=0, atol=1e-5, msg=f"{name}: {parameter}")
    return facts


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_are_those_of_one_process(runs: Path, name: str) -> None:
    check(runs, name)


def test_selective_makes_no_product_twice_on_shards(runs: Path) -> None:
    none, selective, whole = (
        json.loads((runs / f"{name}-full.json").read_text())["computed"]
        for name in ("none", "selective", "whole")
    )
    assert none["mm"] == selective["mm"] < whole["mm"]
    assert none[ATTENTION] == selective[ATTENTION] < whole[ATTENTION]


def test_ranks_that_share_rows_gather_keys_again_in_the_backward_pass(runs: Path) -> None:
    none, selective = (
        Counted(json.loads((runs / f"{name}-shared.json").read_text())["computed"])
        for name in ("none", "selective")
    )
    assert selective["mm"] == none["mm"]
    assert selective["_allgather_base_"] > none["_allgather_base_"]


class Counted(dict[str, int]):
    def __missing__(self, key: str) -> int:
        return 0


@pytest.mark.slow
def test_compiled_layers_have_the_same_gradients(
    run_ranks: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    obstacle = find_compile_obstacle("cpu")
    if obstacle is not None:
        pytest.skip(f"nothing can be compiled here: {obstacle}")
    folder = tmp_path_factory.mktemp("compiled")
    run_ranks("speed_worker.py", str(folder), *COMPILED, world_size=2)
    for name in COMPILED:
        check(folder, name)
