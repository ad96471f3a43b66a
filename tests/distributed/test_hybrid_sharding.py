"""Sharding on four processes: the numbers of one process, and one all-reduce per group and step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

STEPS = {"2x2": 20, "2x2-kept": 5, "4x1": 5, "1x4": 5, "2x2-bf16": 5}
EXACT = ["2x2", "2x2-kept", "4x1", "1x4"]
MICRO_BATCHES = 4
DECODER_LAYERS_AND_TIED_TABLES = 3  # two layers; the tied embeddings with the final norm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hybrid")


@pytest.fixture(scope="module")
def runs(run_ranks: Callable[..., None], folder: Path) -> dict[str, Any]:
    """Train all variants once; every test below reads the same runs."""
    run_ranks("hybrid_worker.py", str(folder), world_size=4)
    return json.loads((folder / "report.json").read_text())


def largest_difference(runs: dict[str, Any], name: str, what: str) -> float:
    found, expected = runs[name][what], runs["reference"][what]
    assert len(found) == STEPS[name]
    return max(abs(a - b) for a, b in zip(found, expected, strict=False))


def count(run: dict[str, Any], axis: str) -> Counter[tuple[str, str]]:
    """Count the collectives of one mesh axis by (phase, operation); a phase is STEP:MICRO_BATCH or STEP:NAME."""
    group = run["groups"][axis]
    return Counter((phase, operation) for phase, operation, found in run["collectives"] if found == group)


def in_micro_batches(counted: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    return {key: times for key, times in counted.items() if key[0].split(":")[1].isdigit()}


def test_the_mesh_is_the_one_that_was_asked_for(runs: dict[str, Any]) -> None:
    assert runs["2x2"]["mesh"] == {"dp_replicate": 2, "dp_shard": 2}
    assert runs["4x1"]["mesh"] == {"dp_replicate": 4, "dp_shard": 1}
    assert runs["1x4"]["mesh"] == {"dp_shard": 4}
    assert runs["2x2"]["groups"]["dp_replicate"] != runs["2x2"]["groups"]["dp_shard"]
    assert all(runs[name]["is_tied"] for name in EXACT)


@pytest.mark.parametrize("name", EXACT)
def test_losses_and_weights_equal_one_process(runs: dict[str, Any], folder: Path, name: str) -> None:
    assert largest_difference(runs, name, "losses") <= 1e-5
    weights = load_file(folder / f"{name}.safetensors")
    expected = load_file(folder / f"reference-{STEPS[name]}.safetensors")
    assert weights.keys() == expected.keys()
    for key in expected:
        assert (weights[key] - expected[key]).abs().max() <= 1e-5, key


@pytest.mark.parametrize("name", EXACT)
def test_gradients_are_clipped_by_the_norm_of_one_process(runs: dict[str, Any], name: str) -> None:
    assert largest_difference(runs, name, "norms") <= 1e-5
    assert min(runs["reference"]["norms"]) > 0.5, "every step is clipped, or the test shows nothing"


@pytest.mark.parametrize("name", ["2x2", "2x2-kept", "4x1", "2x2-bf16"])
def test_gradients_cross_nodes_once_per_group_and_step_on_the_last_micro_batch(
    runs: dict[str, Any], name: str
) -> None:
    run = runs[name]
    assert run["fsdp_groups"] == DECODER_LAYERS_AND_TIED_TABLES
    assert in_micro_batches(count(run, "dp_replicate")) == {
        (f"{step}:{MICRO_BATCHES - 1}", "allreduce_"): run["fsdp_groups"] for step in range(STEPS[name])
    }


@pytest.mark.parametrize("name", ["2x2", "2x2-kept", "1x4", "2x2-bf16"])
def test_gradients_are_scattered_inside_a_node_on_every_micro_batch(runs: dict[str, Any], name: str) -> None:
    run = runs[name]
    counted = in_micro_batches(count(run, "dp_shard"))
    scattered = {key[0]: times for key, times in counted.items() if key[1].startswith("_reduce_scatter")}
    phases = [f"{step}:{micro_batch}" for step in range(STEPS[name]) for micro_batch in range(MICRO_BATCHES)]
    assert scattered == dict.fromkeys(phases, run["fsdp_groups"])


def test_clipping_sums_one_number_over_the_shards(runs: dict[str, Any]) -> None:
    clipping = Counter(
        (operation, group) for phase, operation, group in runs["2x2"]["collectives"] if phase == "7:clip"
    )
    assert clipping == {("all_reduce", runs["2x2"]["groups"]["dp_shard"]): 1}


def test_kept_parameters_are_gathered_once_per_micro_batch(runs: dict[str, Any]) -> None:
    def gathers(name: str) -> int:
        counted = count(runs[name], "dp_shard")
        return sum(times for (phase, what), times in counted.items() if phase == "3:1" and "gather" in what)

    assert gathers("2x2-kept") == DECODER_LAYERS_AND_TIED_TABLES
    assert gathers("2x2") > gathers("2x2-kept")


def test_bf16_computes_in_bf16_on_fp32_weights(runs: dict[str, Any], folder: Path) -> None:
    run = runs["2x2-bf16"]
    assert run["dtypes"] == ["torch.float32"]
    assert 0 < largest_difference(runs, "2x2-bf16", "losses") < 0.02
    weights = load_file(folder / "2x2-bf16.safetensors")
    table = weights["model.embed_tokens.weight"]
    assert not torch.equal(table, table.bfloat16().float()), "updates smaller than a bf16 step are kept"
