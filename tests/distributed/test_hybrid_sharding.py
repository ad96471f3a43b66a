"""Hybrid sharding on a 2 x 2 mesh: the numbers of one process, and one all-reduce per group and step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

STEPS, LAST_MICRO_BATCH = 20, "3"


@pytest.fixture(scope="module")
def reports() -> dict[int, Any]:
    return {}


@pytest.fixture(params=[2], ids=["2x2"])
def run(
    request: pytest.FixtureRequest, reports: dict[int, Any], run_ranks: Callable[..., None], tmp_path: Path
) -> dict[str, Any]:
    """Train once per mesh; every test below reads the same run."""
    if request.param not in reports:
        run_ranks("hybrid_worker.py", str(tmp_path), str(request.param), world_size=4)
        report = json.loads((tmp_path / "report.json").read_text())
        report["weights"] = [load_file(tmp_path / f"{name}.safetensors") for name in ("reference", "sharded")]
        reports[request.param] = report
    return reports[request.param]


def test_mesh_is_the_one_that_was_asked_for(run: dict[str, Any]) -> None:
    assert run["mesh"] == {"dp_replicate": 2, "dp_shard": 2}
    assert run["groups"]["dp_replicate"] != run["groups"]["dp_shard"]


def test_losses_and_weights_after_20_steps_equal_one_process(run: dict[str, Any]) -> None:
    reference, sharded = run["losses"]
    assert len(sharded) == STEPS
    assert max(abs(a - b) for a, b in zip(reference, sharded, strict=True)) <= 1e-5
    expected, found = run["weights"]
    assert found.keys() == expected.keys()
    for name in expected:
        assert (expected[name] - found[name]).abs().max() <= 1e-5, name


def test_gradients_are_clipped_by_the_norm_of_one_process(run: dict[str, Any]) -> None:
    reference, sharded = run["norms"]
    assert max(abs(a - b) for a, b in zip(reference, sharded, strict=True)) <= 1e-5
    assert min(reference) > 0.5, "every step is clipped, or the test shows nothing"


def test_gradients_cross_nodes_once_per_group_and_step_on_the_last_micro_batch(run: dict[str, Any]) -> None:
    across = run["groups"]["dp_replicate"]
    seen = Counter((phase, operation) for phase, operation, group in run["collectives"] if group == across)
    in_backward = {key: count for key, count in seen.items() if key[0].split(":")[1].isdigit()}
    assert run["fsdp_groups"] == 3  # two decoder layers; tied embeddings with the final norm
    assert in_backward == {
        (f"{step}:{LAST_MICRO_BATCH}", "allreduce_"): run["fsdp_groups"] for step in range(STEPS)
    }


def test_gradients_stay_sharded_inside_a_node_after_every_micro_batch(run: dict[str, Any]) -> None:
    scattered = Counter(
        phase for phase, operation, _ in run["collectives"] if operation.startswith("_reduce_scatter")
    )
    assert scattered == {f"{step}:{n}": run["fsdp_groups"] for step in range(STEPS) for n in range(4)}
    clip = Counter(operation for phase, operation, _ in run["collectives"] if phase == "0:clip")
    assert clip == {"all_reduce": 1}, "one number is summed over the shards to clip"
