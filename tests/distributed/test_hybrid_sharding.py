"""Sharding on several processes: the numbers of one process, and no byte sent that the plan does not know of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from biomedllama_cli.engine.sharding import MeshShape
from biomedllama_cli.engine.traffic import (
    Collective,
    ParameterGroup,
    StepTraffic,
    plan_context_traffic,
    plan_traffic,
)
from biomedllama_cli.models.load import load_model

STRATEGIES = ["full", "hybrid", "hybrid-zero2", "replicate"]
STEPS = {**dict.fromkeys(STRATEGIES, 20), "eight": 10, "copies": 3, "hybrid-bf16": 3}
EXACT = [*STRATEGIES, "eight", "copies"]
SHARDED = [name for name in STEPS if name != "replicate"]
COPIED = ["hybrid", "hybrid-zero2", "eight", "copies", "hybrid-bf16"]
ROWS_PER_STEP, LOGGED = 16, 3  # steps whose collectives are logged
TINY = 1024  # bytes: numbers of tokens and norms, the losses of a step's rows


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, job_environment: dict[str, str], corpus_folder: Path
) -> Path:
    """Train all variants once; every test below reads the same runs."""
    folder = tmp_path_factory.mktemp("hybrid")
    worker = Path(__file__).with_name("hybrid_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(folder), str(corpus_folder)],
        env=job_environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Any]:
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ["reference", *STEPS]}


def largest_difference(runs: dict[str, Any], name: str, what: str) -> float:
    found, expected = runs[name][what], runs["reference"][what]
    assert len(found) == STEPS[name]
    return max(abs(a - b) for a, b in zip(found, expected, strict=False))


def shape_of(run: dict[str, Any]) -> MeshShape:
    return MeshShape(run["mesh"].get("dp_replicate", 1), run["mesh"].get("dp_shard", 1))


def count_micro_batches(run: dict[str, Any]) -> int:
    return ROWS_PER_STEP // shape_of(run).world_size


def plan(runs: dict[str, Any], name: str) -> StepTraffic:
    """Return what the formula says of a variant, of the shapes that the model had before it was sharded."""
    strategy = name if name in STRATEGIES else "hybrid"
    compute_bytes = 2 if name.endswith("bf16") else 4
    return plan_groups(
        runs[name]["planned_groups"], shape_of(runs[name]), strategy, compute_bytes=compute_bytes
    )


def plan_groups(
    groups: list[dict[str, Any]], mesh: MeshShape, strategy: str, *, compute_bytes: int
) -> StepTraffic:
    return plan_traffic(
        [ParameterGroup(tuple(map(tuple, group["shapes"])), group["is_kept"]) for group in groups],
        mesh,
        strategy,
        compute_bytes=compute_bytes,
    )


def count_planned(collectives: tuple[Collective, ...]) -> Counter[tuple[str, int, int]]:
    counted: Counter[tuple[str, int, int]] = Counter()
    for each in collectives:
        counted[each.kind, each.ranks, each.tensor_bytes] += each.calls
    return counted


def count_seen(run: dict[str, Any], phase: str) -> Counter[tuple[str, int, int]]:
    """Count the collectives of a phase (STEP:MICRO_BATCH or STEP:NAME) by kind, ranks and bytes."""
    counted: Counter[tuple[str, int, int]] = Counter()
    for found, kind, _, ranks, size, times in run["collectives"]:
        if found == phase and kind != "broadcast_":  # DDP tells all ranks once which buckets it will use
            counted[kind, ranks, size] += times
    return counted


def test_the_mesh_follows_from_the_nodes_or_is_the_one_that_was_asked_for(runs: dict[str, Any]) -> None:
    assert runs["full"]["mesh"] == {"dp_shard": 4}
    assert runs["hybrid"]["mesh"] == {"dp_replicate": 2, "dp_shard": 2}
    assert runs["hybrid-zero2"]["mesh"] == {"dp_replicate": 2, "dp_shard": 2}
    assert runs["replicate"]["mesh"] == {"dp_replicate": 4}
    assert runs["copies"]["mesh"] == {"dp_replicate": 4, "dp_shard": 1}
    assert runs["eight"]["mesh"] == {"dp_replicate": 2, "dp_shard": 4}
    assert runs["hybrid"]["groups"]["dp_replicate"] != runs["hybrid"]["groups"]["dp_shard"]
    assert all(runs[name]["is_tied"] for name in EXACT)


def test_ranks_that_share_sequences_are_neighbours_and_hold_different_shards(
    runs: dict[str, Any], folder: Path
) -> None:
    seen = [json.loads((folder / f"context-{rank}.json").read_text()) for rank in range(8)]
    assert all(each["shape"] == {"dp_replicate_size": 2, "dp_shard_size": 2, "cp_size": 2} for each in seen)
    assert [each["sharers"] for each in seen] == [[rank // 2 * 2, rank // 2 * 2 + 1] for rank in range(8)]
    assert [each["data_rank"] for each in seen] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(each["fsdp"] == {"dp_replicate": 2, "dp_shard_cp": 4} for each in seen)
    assert [each["shard_ranks"] for each in seen] == [[0, 1, 2, 3]] * 4 + [[4, 5, 6, 7]] * 4


def test_ranks_that_share_sequences_gather_keys_and_values_and_nothing_that_is_not_planned(
    runs: dict[str, Any], folder: Path
) -> None:
    seen = [json.loads((folder / f"context-{rank}.json").read_text()) for rank in range(8)]
    mesh = MeshShape(2, 2, cp_size=2)
    planned = plan_groups(seen[0]["planned_groups"], mesh, "hybrid", compute_bytes=4)
    # One row of 16 tokens, 2 key heads of size 8, 2 layers.
    context = plan_context_traffic(mesh, layers=2, key_value_numbers=16 * 2 * 8, compute_bytes=4)
    each = count_planned((*planned.each_micro_batch, *context))
    assert sum(each.values()) > sum(count_planned(planned.each_micro_batch).values())
    for run in seen:
        assert run["losses"][0] == pytest.approx(runs["reference"]["losses"][0], abs=1e-5)
        assert [count_seen(run, f"0:{number}") for number in range(4)] == [
            each,
            each,
            each,
            each + count_planned(planned.last_micro_batch),
        ]


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


@pytest.mark.parametrize("name", SHARDED)
def test_the_groups_that_are_gathered_together_are_known_beforehand(runs: dict[str, Any], name: str) -> None:
    run = runs[name]
    planned = [sorted(group["shapes"]) for group in run["planned_groups"]]
    assert len(planned) == 3, "two layers; the tied tables with the final norm"
    assert sorted(run["fsdp_groups"]) == sorted(planned)


@pytest.mark.parametrize("name", list(STEPS))
def test_every_micro_batch_sends_what_the_formula_says(runs: dict[str, Any], name: str) -> None:
    run, planned = runs[name], plan(runs, name)
    count = count_micro_batches(run)
    for step in range(LOGGED):
        for micro_batch in range(count):
            wanted = planned.each_micro_batch
            if micro_batch == count - 1:
                wanted += planned.last_micro_batch
            assert count_seen(run, f"{step}:{micro_batch}") == count_planned(wanted), (step, micro_batch)


@pytest.mark.parametrize("name", list(STEPS))
def test_what_is_not_in_the_formula_is_small(runs: dict[str, Any], name: str) -> None:
    others = [
        each
        for each in runs[name]["collectives"]
        if each[0] and not each[0].split(":")[1].isdigit()  # before the first step DDP sends weights, once
    ]
    assert {each[0].split(":")[1] for each in others} <= {"before", "clip", "after"}
    assert max(size for *_, size, _ in others) <= TINY
    each_step = 2 if shape_of(runs[name]).fsdp_size == 1 else 3  # targets and losses; norms of shards
    assert sum(times for *_, times in others) == each_step * LOGGED


@pytest.mark.parametrize("name", COPIED)
def test_gradients_cross_nodes_once_per_group_and_step(runs: dict[str, Any], name: str) -> None:
    run, last = runs[name], count_micro_batches(runs[name]) - 1
    crossings = {
        phase: sum(
            times
            for found, kind, group, *_, times in run["collectives"]
            if found == phase and kind == "all_reduce" and group == run["groups"]["dp_replicate"]
        )
        for phase in (f"{step}:{number}" for step in range(LOGGED) for number in range(last + 1))
    }
    assert crossings == {phase: 3 if phase.endswith(f":{last}") else 0 for phase in crossings}


@pytest.mark.parametrize("name", SHARDED)
def test_gradients_are_never_held_whole_between_micro_batches(runs: dict[str, Any], name: str) -> None:
    run = runs[name]
    padded = sum(
        -(-shape[0] // shape_of(run).fsdp_size) * (shape[1] if len(shape) > 1 else 1)
        for group in run["planned_groups"]
        for shape in group["shapes"]
    )
    assert len(run["held"]) == STEPS[name] * (count_micro_batches(run) - 1)
    assert all(whole == 0 and 0 < shards <= padded for whole, shards in run["held"])


def test_copies_are_plain_tensors_and_send_gradients_once_a_step(runs: dict[str, Any]) -> None:
    run = runs["replicate"]
    assert run["kinds"] == ["Tensor"]
    assert run["fsdp_groups"] == []
    parameters = sum(
        torch.Size(shape).numel() for group in run["planned_groups"] for shape in group["shapes"]
    )
    for step in range(LOGGED):
        assert [count_seen(run, f"{step}:{number}") for number in range(4)] == [
            {},
            {},
            {},
            {("all_reduce", 4, 4 * parameters): 1},
        ]


def test_bf16_computes_in_bf16_on_fp32_weights(runs: dict[str, Any], folder: Path) -> None:
    run = runs["hybrid-bf16"]
    assert run["dtypes"] == ["torch.float32"]
    assert 0 < largest_difference(runs, "hybrid-bf16", "losses") < 0.02
    table = load_file(folder / "hybrid-bf16.safetensors")["model.embed_tokens.weight"]
    assert not torch.equal(table, table.bfloat16().float()), "updates smaller than a bf16 step are kept"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_several_epochs_with_an_uneven_last_batch_train_as_in_one_process(
    folder: Path, strategy: str
) -> None:
    found, expected = (read_run(folder / f"run-{name}") for name in (strategy, "one"))
    assert found["steps"] == expected["steps"] == 8
    rows = 2.25 * expected["sequences"]
    assert 7 * 16 < rows <= 8 * 16 - 4, "the last step has fewer rows, and a rank has none of them"
    for what in ("train/loss", "train/grad_norm", "validation/loss"):
        assert len(found[what]) == len(expected[what]) > 1
        assert max(abs(a - b) for a, b in zip(found[what], expected[what], strict=True)) <= 1e-5, what
    for (name, weight), wanted in zip(found["weights"], expected["weights"], strict=True):
        assert (weight - wanted[1]).abs().max() <= 1e-5, name


def read_run(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curves = {
        what: [line[what] for line in lines if what in line]
        for what in ("train/loss", "train/grad_norm", "validation/loss")
    }
    weights = list(load_model(report["checkpoint"]).named_parameters())
    return {**report, **curves, "weights": weights}
