"""Compiled decoder layers: the numbers of eager ones, and no compilation for every batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from biomedllama_cli.engine import layer_compiler
from biomedllama_cli.engine.activation_checkpointing import save_activations
from biomedllama_cli.engine.compute_clock import ComputeClock
from biomedllama_cli.engine.layer_compiler import compile_layers, find_compile_obstacle
from biomedllama_cli.errors import ModelError, UnavailableError
from biomedllama_cli.models.attention_names import register_attention
from biomedllama_cli.models.loss import enable_token_losses, token_losses

CPU = torch.device("cpu")
BATCHES, LENGTH, VOCABULARY = 6, 40, 64


def build(attention: str = "documents") -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "vocab_size": VOCABULARY}
    config = LlamaConfig(**sizes, intermediate_size=80, num_key_value_heads=2)
    name = register_attention(attention)
    model: PreTrainedModel = LlamaForCausalLM._from_config(config, attn_implementation=name)
    return enable_token_losses(model.train())


def train(model: PreTrainedModel) -> tuple[list[torch.Tensor], list[int]]:
    """Return losses and gradients over batches of different documents, with a look in between; and graphs so far."""
    generator, losses, graphs = torch.Generator().manual_seed(1), [], []
    for number in range(BATCHES):
        ids = torch.randint(0, VOCABULARY, (2, LENGTH), generator=generator)
        borders = torch.randperm(LENGTH - 1, generator=generator)[: number + 1] + 1
        positions = torch.arange(LENGTH).repeat(2, 1)
        for border in sorted(borders.tolist()):
            positions[0, border:] = torch.arange(LENGTH - border)
        losses_BT = token_losses(model, ids, ids.roll(-1, 1), positions)
        torch.autograd.backward(losses_BT.sum())
        losses.append(losses_BT.detach())
        if number == 1:
            model.eval()
            with torch.no_grad():
                losses.append(token_losses(model, ids, ids.roll(-1, 1), positions))
            model.train()
        graphs.append(counters["stats"]["unique_graphs"])
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [*losses, *gradients], graphs


@cache
def train_eager() -> list[torch.Tensor]:
    return train(build())[0]


def assert_close(found: list[torch.Tensor]) -> None:
    assert len(found) == len(train_eager())
    for number, (ours, theirs) in enumerate(zip(found, train_eager(), strict=True)):
        tolerance = 1e-5 if number <= BATCHES else 1e-4  # gradients are summed over all tokens
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=tolerance)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace as always and run what was traced operator by operator: that takes no compiler, and no time."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(layer_compiler, "find_compile_obstacle", lambda device_type: None)
    compile_one = cache(lambda forward: torch.compile(forward, backend="aot_eager"))
    monkeypatch.setattr(layer_compiler, "_compile", compile_one)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("attention", ["documents", "sdpa", "eager"])
def test_other_documents_are_no_reason_to_compile_again(attention: str, mode: str) -> None:
    model = build(attention)
    save_activations(model, mode, CPU)
    compile_layers(model, CPU)
    losses, graphs = train(model)
    assert_close(losses)
    assert graphs[0] >= 1
    # The first batch compiles, and so do the look and what follows it; layers after the first cost nothing.
    assert len(set(graphs[2:])) == 1
    assert graphs[-1] <= 16


@pytest.mark.usefixtures("traced")
def test_full_checkpointing_runs_compiled_layers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def count(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return forward(*args, **kwargs)

        return run

    monkeypatch.setattr(layer_compiler, "_compile", count)
    model = build()
    save_activations(model, "full", CPU)
    compile_layers(model, CPU)
    train(model)
    layers, looks = model.config.num_hidden_layers, 1
    assert len(calls) == layers * (2 * BATCHES + looks)


@pytest.mark.usefixtures("traced")
def test_names_hooks_and_the_clock_stay() -> None:
    model, names = build(), list(build().state_dict())
    compile_layers(model, CPU)
    clock = ComputeClock(model, CPU)
    train(model)
    assert list(model.state_dict()) == names
    assert clock.read() > 0


def test_without_a_compiler_it_is_refused(tmp_path: Path) -> None:
    program = (
        "import torch; from biomedllama_cli.engine.layer_compiler import compile_layers;"
        "compile_layers(torch.nn.Linear(1, 1), torch.device('cpu'))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC")}
    environment |= {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "CXX": "no-compiler"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ran.returncode == 1
    assert f"{UnavailableError.__name__}: compile: torch.compile cannot be used for cpu here: " in ran.stderr
    assert ran.stderr.rstrip().endswith(".")


@pytest.mark.usefixtures("traced")
def test_a_model_that_does_not_name_its_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    monkeypatch.setattr(type(model), "_no_split_modules", [])
    model._no_split_modules = []
    with pytest.raises(ModelError, match="cannot be compiled"):
        compile_layers(model, CPU)


@pytest.mark.slow
def test_compiled_losses_are_those_of_eager_ones() -> None:
    obstacle = find_compile_obstacle("cpu")
    if obstacle is not None:
        pytest.skip(f"nothing can be compiled here: {obstacle}")
    torch._dynamo.reset()
    model = build()
    compile_layers(model, CPU)
    assert_close(train(model)[0])
