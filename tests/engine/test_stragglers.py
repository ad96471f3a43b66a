from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from biomedllama_cli.engine import compute_clock
from biomedllama_cli.engine.compute_clock import ComputeClock, choose_layers
from biomedllama_cli.engine.onlookers import RANK_TIMES, StepFacts
from biomedllama_cli.engine.stragglers import SLOW_RATIO, STARVED_FRACTION, WINDOW, Stragglers


def describe(step: int, waited: list[float], computed: list[float], seconds: float = 1.0) -> StepFacts:
    assert RANK_TIMES == ("loader", "compute")
    return StepFacts(
        step=step,
        grad_norm=1.0,
        row_losses=np.ones(1),
        row_targets=np.ones(1),
        rank_seconds=np.array([waited, computed]).T,
        row_ids=np.zeros(1, np.int64),
        row_checks=np.zeros(1, np.int64),
        was_accepted=True,
        seconds=seconds,
    )


def make(ranks: int, hosts: list[str] | None = None) -> Stragglers:
    accelerator: Any = SimpleNamespace(num_processes=ranks)
    stragglers = Stragglers(accelerator, data_workers=3)
    stragglers._hosts = hosts or ["here"] * ranks  # `begin` asks the ranks
    return stragglers


def watch(stragglers: Stragglers, steps: int, waited: list[float], computed: list[float]) -> list[Any]:
    return [stragglers.note(describe(step, waited, computed)) for step in range(2, steps + 2)]


@pytest.mark.parametrize("ranks", [2, 5])
def test_a_rank_that_computes_slower_is_told_once_with_its_host(
    caplog: pytest.LogCaptureFixture, ranks: int
) -> None:
    stragglers = make(ranks, [f"node{rank}" for rank in range(ranks)])
    computed = [1.0] * (ranks - 1) + [1.5]
    numbers = watch(stragglers, WINDOW + 100, [0.0] * ranks, computed)
    assert numbers[0]["ranks/slowest_ratio"] == 1.5
    (record,) = caplog.records
    assert f"step {WINDOW + 1}: rank {ranks - 1} on node{ranks - 1} computes 1.50 times as long" in (
        record.getMessage()
    )


def test_ranks_that_differ_a_little_or_for_one_step_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    stragglers = make(2)
    watch(stragglers, 2 * WINDOW, [0.0] * 2, [1.0, SLOW_RATIO - 0.01])
    watch(stragglers, WINDOW // 2 - 2, [0.0] * 2, [1.0, 9.0])  # less than half of the window
    assert not caplog.records


def test_a_rank_that_computes_faster_is_no_straggler(caplog: pytest.LogCaptureFixture) -> None:
    watch(make(4), 2 * WINDOW, [0.0] * 4, [1.0, 1.0, 1.0, 0.3])
    assert not caplog.records


def test_where_nobody_measures_nobody_is_compared() -> None:
    (numbers,) = watch(make(2), 1, [0.0, 0.0], [0.0, 0.0])
    assert set(numbers) == {"loader/wait_fraction"}


def test_a_starving_loader_is_told_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    stragglers = make(2, ["node0", "node1"])
    numbers = watch(stragglers, WINDOW + 50, [0.0, 0.25], [1.0, 1.0])
    assert numbers[0]["loader/wait_fraction"] == 0.25  # the worst rank's, for which the others wait
    (record,) = caplog.records
    assert (
        "the loader keeps the model waiting for 25 % of a step (mean of the last 32, now rank 1 on node1)"
        in (record.getMessage())
    )
    assert "raise --data-workers, which is 3" in record.getMessage()


def test_a_loader_that_is_slow_only_when_it_starts_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    stragglers = make(1)
    stragglers.begin(0)
    stragglers.note(describe(1, [500.0], [0.0], seconds=501))
    watch(stragglers, 2 * WINDOW, [STARVED_FRACTION / 2], [0.0])
    assert not caplog.records


def build_model(layers: int = 6) -> Any:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32}
    return LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=layers))  # type: ignore[arg-type]


def test_the_clock_counts_what_layers_compute_and_not_what_is_around_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]

    def let_pass(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(compute_clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    model = build_model(4)
    for layer in model.model.layers:  # as FSDP's: an outer hook that waits for other ranks
        layer.register_forward_pre_hook(lambda *_: let_pass(5), prepend=True)
        layer.register_forward_hook(lambda *_: let_pass(5))
    for layer in model.model.layers[:2]:
        layer.mlp.register_forward_hook(lambda *_: let_pass(0.02))
    clock = ComputeClock(model, torch.device("cpu"))
    model.train()
    model(torch.zeros(1, 4, dtype=torch.long))
    assert clock.read() == pytest.approx(0.04)
    assert clock.read() == 0
    model.eval()
    model(torch.zeros(1, 4, dtype=torch.long))
    assert clock.read() == 0  # a look at held-out text


def test_the_clock_times_a_few_layers_of_any_model() -> None:
    model = build_model(10)
    assert [id(layer) for layer in choose_layers(model)] == [
        id(model.model.layers[number]) for number in (0, 2, 5, 7)
    ]
    assert len(choose_layers(build_model(2))) == 2
    assert choose_layers(torch.nn.Linear(2, 2)) == []


def test_training_goes_on_through_the_clock() -> None:
    torch.manual_seed(0)
    model = build_model(2).train()
    plain = build_model(2).train()
    plain.load_state_dict(model.state_dict())
    clock = ComputeClock(model, torch.device("cpu"))
    ids = torch.arange(8)[None]
    for each in (model, plain):
        functional.cross_entropy(each(ids).logits[0], ids[0]).backward()
    assert clock.read() > 0
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_clock_reads_the_device_without_waiting_for_it() -> None:
    device = torch.device("cuda")
    model = build_model(4).to(device).train()
    clock = ComputeClock(model, device)
    ids = torch.zeros(4, 16, dtype=torch.long, device=device)
    model(ids).logits.sum().backward()
    torch.cuda.synchronize()  # the end of a step
    assert 0 < clock.read() < 60
    assert clock.read() == 0
