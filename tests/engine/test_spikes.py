from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from biomedllama_cli.engine.checkpoint import load_progress
from biomedllama_cli.engine.checkpoint_folder import GateState
from biomedllama_cli.engine.metrics import iter_metrics
from biomedllama_cli.engine.onlookers import Onlookers, StepFacts, Watcher
from biomedllama_cli.engine.saved_runs import list_checkpoints
from biomedllama_cli.engine.spikes import LONGEST_SPIKE, SpikeGate, build_spike_gate


def make_gate(action: Any = "skip", *, window: int = 128, deviations: float = 6.0) -> SpikeGate:
    gate = build_spike_gate(action, deviations=deviations, window=window)
    assert gate is not None
    return gate


def noise(count: int, seed: int = 0) -> list[tuple[float, float]]:
    generator = np.random.default_rng(seed)
    return [
        (2 + 0.05 * float(loss), 0.4 + 0.03 * float(norm)) for loss, norm in generator.normal(size=(count, 2))
    ]


def warm_up(gate: SpikeGate, steps: int = 128) -> None:
    assert all(gate.accept(*numbers) for numbers in noise(steps))


def describe(gate: SpikeGate, step: int, loss: float, grad_norm: float) -> StepFacts:
    return StepFacts(
        step=step,
        grad_norm=grad_norm,
        row_losses=np.array([10.0, 90.0, 0.0]),
        row_targets=np.array([5.0, 10.0, 0.0]),
        rank_seconds=np.zeros((1, 2)),
        row_ids=np.array([7, 8, -1]),
        row_checks=np.zeros(3, np.int64),
        was_accepted=gate.accept(loss, grad_norm),
        seconds=1.0,
    )


def test_noise_is_no_spike() -> None:
    gate = make_gate()
    assert all(gate.accept(*numbers) for numbers in noise(3000))


@pytest.mark.parametrize(("loss", "grad_norm"), [(2.5, 0.4), (2.0, 0.8)])
def test_a_loss_or_a_gradient_norm_far_above_is_refused(loss: float, grad_norm: float) -> None:
    gate = make_gate()
    warm_up(gate)
    assert not gate.accept(loss, grad_norm)
    assert gate.accept(2.0, 0.4)


def test_the_bound_is_where_the_settings_put_it() -> None:
    for deviations, is_accepted in ((3.0, False), (12.0, True)):
        gate = make_gate(deviations=deviations)
        warm_up(gate)
        assert gate.accept(2 + 8 * 0.05, 0.4) is is_accepted


def test_nothing_is_a_spike_before_the_window_is_full() -> None:
    gate = make_gate()
    warm_up(gate, 127)
    assert gate.accept(50.0, 50.0)
    other = make_gate()
    warm_up(other, 128)
    assert not other.accept(50.0, 50.0)


def test_what_falls_is_no_spike() -> None:
    gate = make_gate()
    warm_up(gate)
    assert gate.accept(0.1, 0.01)


def test_a_refused_step_is_not_what_later_ones_are_held_against() -> None:
    gate = make_gate()
    warm_up(gate)
    for _ in range(3):
        assert not gate.accept(2.6, 0.4)  # were the first one taken in, the third would be none
    before = gate.save().losses
    assert max(before) < 2.3


def test_a_new_level_is_learned_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    gate = make_gate()
    warm_up(gate)
    facts = [describe(gate, step, 3.0, 0.4) for step in range(200, 200 + LONGEST_SPIKE + 3)]
    assert [fact.was_accepted for fact in facts] == [False] * LONGEST_SPIKE + [True] * 3


def test_numbers_that_are_not_finite_are_left_to_others() -> None:
    gate = make_gate()
    warm_up(gate)
    before = gate.save()
    assert gate.accept(2.0, math.inf)  # an overflow of fp16
    assert gate.accept(math.nan, math.nan)
    assert gate.save() == before


def test_a_spike_is_told_with_its_sequences(caplog: pytest.LogCaptureFixture) -> None:
    gate = make_gate()
    warm_up(gate)
    numbers = gate.note(describe(gate, 412, 9.0, 0.4))
    assert "step 412: the loss 9 is " in caplog.text
    assert (
        "above the last 128 steps: its update is left out; highest losses in sequences 8 (9.00), 7 (2.00)"
        in (caplog.text)
    )
    assert numbers["spikes/found"] == 1
    assert numbers["spikes/loss_deviations"] > 100
    assert numbers["spikes/grad_norm_deviations"] < 6


def test_warn_tells_and_makes_the_update(caplog: pytest.LogCaptureFixture) -> None:
    gate = make_gate("warn")
    warm_up(gate)
    facts = describe(gate, 412, 9.0, 0.4)
    gate.note(facts)
    assert facts.was_accepted
    assert "its update is made" in caplog.text
    assert max(gate.save().losses) < 3


def test_off_is_nobody() -> None:
    assert build_spike_gate("off", deviations=6, window=128) is None


def test_a_resumed_gate_refuses_the_same_steps() -> None:
    whole, first = make_gate(window=16), make_gate(window=16)
    numbers = noise(200, seed=1)
    for place in range(40, 200, 20):
        numbers[place] = (9.0, 0.4)
    wanted = [whole.accept(*each) for each in numbers]
    found = [first.accept(*each) for each in numbers[:95]]
    second = make_gate(window=16)
    second.load(GateState(**json.loads(json.dumps(asdict(first.save())))))
    found += [second.accept(*each) for each in numbers[95:]]
    assert found == wanted
    assert wanted.count(False) == 8
    assert second.save() == whole.save()


def build_with_spikes(build_loop: Callable[..., Any], folder: Path, action: str, **changes: Any) -> Any:
    """Return a loop whose 20th step has a gradient ten thousand times as large."""
    gate = make_gate(action, window=8)
    loop = build_loop(folder, max_steps=24, onlookers=Onlookers(gate, [gate]), save_every_steps=1, **changes)
    seen = {"step": 0}

    class Tracker(Watcher):
        def begin(self, step: int) -> None:
            seen["step"] = step

        def note(self, facts: Any) -> dict[str, float]:
            seen["step"] = facts.step
            return {}

    loop._onlookers = Onlookers(gate, [gate, Tracker()])
    for parameter in loop._model.parameters():
        parameter.register_hook(lambda gradient: gradient * (1e4 if seen["step"] == 19 else 1.0))
    return loop


def test_the_weights_stay_where_an_update_was_left_out(
    build_loop: Callable[..., Any], tmp_path: Path
) -> None:
    weights: dict[str, list[Any]] = {}
    for action in ("skip", "warn"):
        folder = tmp_path / action
        folder.mkdir()
        build_with_spikes(build_loop, folder, action, keep_checkpoints=30).run()
        weights[action] = [load_model_weights(path) for path in list_checkpoints(folder)[18:20]]
        found = [
            line["spikes/found"] for line in iter_metrics(folder / "metrics.jsonl") if "spikes/found" in line
        ]
        assert found == [0] * 19 + [1] * 5
    before, after = weights["skip"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    before, after = weights["warn"]
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_the_gate_is_part_of_the_checkpoint(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    loop = build_with_spikes(build_loop, tmp_path, "skip", keep_checkpoints=30)
    loop.run()
    at_21 = list_checkpoints(tmp_path)[20]
    saved = load_progress(at_21).gate
    assert saved is not None
    assert saved.spikes == 1
    again = build_with_spikes(build_loop, tmp_path, "skip", resume=at_21)
    assert again._onlookers.gate is not None
    ends = [load_progress(list_checkpoints(tmp_path)[-1]).gate]
    again.run()
    ends.append(load_progress(list_checkpoints(tmp_path)[-1]).gate)
    assert ends[0] == ends[1]


def load_model_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")
