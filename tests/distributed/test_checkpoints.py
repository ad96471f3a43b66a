"""Checkpoints of four, two and one process, in every strategy: one layout, which any of them goes on from."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, load
from transformers import AutoModelForCausalLM

HALF, WHOLE = 4, 8
MIDDLE, END = f"checkpoints/step-{HALF:08d}", f"checkpoints/step-{WHOLE:08d}"
STRATEGIES = {
    "hybrid": {"dp_replicate_size": 2},
    "zero2": {"dp_replicate_size": 2, "sharding": "hybrid-zero2"},
    "full": {"sharding": "full"},
    "replicate": {"sharding": "replicate"},
}
# World size: [name, mesh, checkpoint, last step, in background]; later world sizes read what the earlier ones wrote.
ORDERS: list[tuple[int, list[Any]]] = [
    (1, [["whole", {}, None, WHOLE, False], ["one", {}, None, HALF, False]]),
    (
        4,
        [
            *([name, mesh, None, HALF, name in ("hybrid", "full")] for name, mesh in STRATEGIES.items()),
            *([f"one-{name}", mesh, f"one/{MIDDLE}", WHOLE, False] for name, mesh in STRATEGIES.items()),
        ],
    ),
    (
        2,
        [
            ["full-two", {}, f"full/{MIDDLE}", 6, False],
            ["replicate-two", {}, f"replicate/{MIDDLE}", WHOLE, False],
        ],
    ),
]
LAST = [
    ["full-two-one", {}, "full-two/checkpoints/step-00000006", WHOLE, False],
    *([f"{name}-one", {}, f"{name}/{MIDDLE}", WHOLE, False] for name in STRATEGIES),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def losses(job_environment: dict[str, str], folder: Path) -> dict[str, list[float]]:
    """Run all orders, each world size once (one process twice), and return the losses of each."""
    jobs, worker = [*ORDERS, (1, LAST)], Path(__file__).with_name("checkpoint_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(folder), json.dumps(jobs)],
        env=job_environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = {}
    for number in range(len(jobs)):
        found |= json.loads((folder / f"report-{number}.json").read_text())
    assert all(each["write"] > 0 and each["stall"] > 0 for each in found.values())
    return {name: each["losses"] for name, each in found.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_one_process_saved_every_strategy_goes_on_from(
    losses: dict[str, list[float]], name: str
) -> None:
    assert losses[f"one-{name}"] == pytest.approx(losses["whole"][HALF:], abs=1e-5)
    assert losses["whole"][0] - losses["whole"][-1] > 0.01, "it learns"


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_four_processes_saved_one_goes_on_from(
    losses: dict[str, list[float]], folder: Path, name: str
) -> None:
    assert losses[f"{name}-one"] == pytest.approx(losses["whole"][HALF:], abs=1e-5)
    found, wanted = (load_file(folder / run / END / "model.safetensors") for run in (f"{name}-one", "whole"))
    assert found.keys() == wanted.keys()
    assert all((found[key] - wanted[key]).abs().max() <= 1e-5 for key in wanted)


def test_four_then_two_then_one_process_train_as_one_does(losses: dict[str, list[float]]) -> None:
    chain = losses["full"][:HALF] + losses["full-two"] + losses["full-two-one"]
    assert chain == pytest.approx(losses["whole"], abs=1e-5)
    assert losses["replicate-two"] == pytest.approx(losses["whole"][HALF:], abs=1e-5)


@pytest.mark.parametrize("name", STRATEGIES)
def test_files_are_laid_out_alike_whoever_wrote_them(
    losses: dict[str, list[float]], folder: Path, name: str
) -> None:
    """Trained over by one more step (hybrid, full), a save in the background still has the numbers of its step."""
    for file in ("model.safetensors", "training_state/optimizer.safetensors"):
        found, wanted = ((folder / run / MIDDLE / file).read_bytes() for run in (name, "one"))
        size = 8 + int.from_bytes(wanted[:8], "little")
        assert found[:size] == wanted[:size]
        assert len(found) == len(wanted)
        numbers, expected = (
            load_file(folder / name / MIDDLE / file),
            load_file(folder / "one" / MIDDLE / file),
        )
        assert all((numbers[key] - expected[key]).abs().max() <= 1e-5 for key in expected)
    assert [path.name for path in (folder / name / "checkpoints").iterdir()] == [Path(MIDDLE).name]


def test_plain_libraries_read_what_four_processes_wrote(losses: dict[str, list[float]], folder: Path) -> None:
    checkpoint = folder / "full" / MIDDLE
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    assert "lm_head.weight" not in weights, "tied"
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    for file in (checkpoint, checkpoint / "training_state"):
        (large,) = (path for path in file.glob("*.safetensors") if path.name != "rng.safetensors")
        expected = load_file(large)
        state = {name: torch.full_like(tensor, torch.nan) for name, tensor in expected.items()}
        load(state, storage_reader=HuggingFaceStorageReader(str(file)), no_dist=True)
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_processes_that_see_different_checkpoints_look_again_and_begin_nothing_apart(
    losses: dict[str, list[float]], folder: Path
) -> None:
    for rank in range(2):
        found, host = json.loads((folder / f"apart-{rank}.json").read_text()), socket.gethostname()
        assert found["agreed"] == str(folder / "one" / MIDDLE)
        assert found["told"] == (
            f"output_dir {folder / 'one'} is not the same for all processes: {host} sees no checkpoint to go on from, "
            f"but rank 0 on {host} sees step-00000004 (step 4)."
        )
