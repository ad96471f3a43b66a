"""Adapters: what is trained, what a folder of theirs holds, and that it means the same to everybody who reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import adapted
import pytest
import torch
from torch.nn import functional

from biomedllama_cli.errors import ModelError, SettingsError, UnavailableError
from biomedllama_cli.models.adapters import add_adapter, check_method, has_adapter
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses, token_losses
from biomedllama_cli.settings.tuning import AdapterSettings


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted.build_base(tmp_path_factory.mktemp("models") / "base")


def train_gradients(model: Any) -> dict[str, torch.Tensor]:
    """Return the gradients of the summed loss, by name."""
    ids = adapted.INPUT_IDS
    positions = torch.arange(11).expand(2, -1)
    loss = token_losses(model.train(), ids[:, :-1], ids[:, 1:].contiguous(), positions).sum()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_fresh_adapters_change_nothing_and_all_else_is_frozen(base: Path, method: str) -> None:
    model = load_model(str(base))
    kind, before = type(model), adapted.logits(model)
    assert not has_adapter(model)
    add_adapter(model, AdapterSettings(method=method, rank=4), seed=0)
    assert type(model) is kind
    assert has_adapter(model)
    assert torch.allclose(adapted.logits(model), before, atol=0 if method == "lora" else 1e-5)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if method == "dora" else set())
    assert {name.split(".")[5] for name in trained} == parts
    assert len(trained) == 2 * 7 * len(parts), "seven linear layers in each of two decoder layers"


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("loss_first", [True, False])
def test_only_adapters_get_gradients_and_checkpointing_changes_none(
    base: Path, method: str, loss_first: bool
) -> None:
    found = []
    for checkpointing in (False, True):
        model = load_model(str(base))
        if loss_first:
            enable_token_losses(model)
        add_adapter(model, AdapterSettings(method=method, rank=4), seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        found.append(train_gradients(enable_token_losses(model)))
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert found[-1].keys() == trained
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 0, name
        assert torch.equal(gradient, found[1][name]), name


def test_the_loss_is_that_of_plain_cross_entropy(base: Path) -> None:
    model = enable_token_losses(adapted.build_adapted(base))
    ids = adapted.INPUT_IDS
    losses = token_losses(model, ids[:, :-1], ids[:, 1:].contiguous(), torch.arange(11)[None])
    plain = functional.cross_entropy(
        adapted.logits(model)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    assert torch.allclose(losses.sum(), plain, rtol=1e-5)


def test_first_weights_follow_from_the_seed_alone_and_the_random_state_is_left_alone(base: Path) -> None:
    def draw(seed: int, state: int) -> dict[str, torch.Tensor]:
        model = load_model(str(base))
        torch.manual_seed(state)
        before = torch.get_rng_state()
        add_adapter(model, AdapterSettings(method="lora", rank=4), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return {name: p.detach() for name, p in model.named_parameters() if "lora_A" in name}

    first, again, other = draw(0, 1), draw(0, 2), draw(1, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_adapters_are_fp32_beside_a_base_in_bf16(base: Path, method: str) -> None:
    model = load_model(str(base), dtype=torch.bfloat16)
    before = adapted.logits(model).float()
    add_adapter(model, AdapterSettings(method=method, rank=4), seed=0)
    dtypes = {p.requires_grad: p.dtype for p in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        after = adapted.logits(model).float()
    assert (after - before).abs().max() <= 0.02 * before.abs().max()
    if method == "dora":
        layer = model.model.layers[0].mlp.up_proj
        norms = layer.base_layer.weight.float().norm(dim=1)
        assert torch.allclose(layer.lora_magnitude_vector["default"].weight, norms, rtol=1e-6)


def test_dropout_acts_in_training_alone(base: Path) -> None:
    model = adapted.build_adapted(base, dropout=0.5)
    assert torch.equal(adapted.logits(model), adapted.logits(model))
    model.train()
    with torch.no_grad():
        first, second = (model(input_ids=adapted.INPUT_IDS).logits for _ in range(2))
    assert not torch.equal(first, second)


def test_named_layers_alone_get_an_adapter(base: Path) -> None:
    model = adapted.build_adapted(base, target_modules=("q_proj", "mlp.up_proj"))
    trained = {
        name.split(".lora_")[0].rsplit(".", 2)[-1] for name, p in model.named_parameters() if p.requires_grad
    }
    assert trained == {"q_proj", "up_proj"}


@pytest.mark.parametrize("name", ["query", "lm_head", "embed_tokens", "self_attn", "proj"])
def test_a_layer_that_cannot_have_an_adapter_is_refused_with_those_that_can(base: Path, name: str) -> None:
    model = load_model(str(base))
    with pytest.raises(SettingsError, match=f"target_modules: '{name}'") as error:
        add_adapter(model, AdapterSettings(method="lora", target_modules=("q_proj", name)), seed=0)
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in error.value.hint
    assert not has_adapter(model)


def test_random_weights_get_no_adapter() -> None:
    model = load_model("scratch:tiny", vocabulary_size=40)
    with pytest.raises(ModelError, match="random weights"):
        add_adapter(model, AdapterSettings(method="lora"), seed=0)


def test_adapters_are_not_stacked(base: Path, tmp_path: Path) -> None:
    folder = adapted.save_trained(adapted.build_adapted(base), tmp_path / "adapter")
    with pytest.raises(ModelError, match="is an adapter itself"):
        add_adapter(load_model(str(base)), AdapterSettings(method="lora"), seed=0, base=str(folder))


def test_quantised_bases_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("full", "lora", "dora"):
        check_method(method, "cpu", world_size=4)
    with pytest.raises(UnavailableError, match="needs CUDA") as caught:
        check_method("qlora", "cpu")
    assert caught.value.hint == "Use --method lora, which runs on the CPU too."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("biomedllama_cli.models.quantization.version", lambda name: "0.40.0")
    with pytest.raises(UnavailableError, match=r"needs bitsandbytes .* and 0\.40\.0 is installed"):
        check_method("qlora", "cuda")
    monkeypatch.setattr("biomedllama_cli.models.quantization.version", lambda name: "0.50.0")
    check_method("qlora", "cuda:0")
    with pytest.raises(UnavailableError, match="cannot be sharded"):
        check_method("qlora", "cuda", world_size=2)
