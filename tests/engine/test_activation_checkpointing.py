"""Activations that are computed again: the numbers stay, memory shrinks, and no product is made twice for nothing."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from biomedllama_cli.engine.activation_checkpointing import recompute_layers, save_activations
from biomedllama_cli.engine.live_memory import LiveMemory
from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.adapters import add_adapter
from biomedllama_cli.models.document_attention import register_document_attention
from biomedllama_cli.models.loss import enable_token_losses, token_losses
from biomedllama_cli.settings.tuning import AdapterSettings

LAYERS, ROWS, LENGTH, VOCABULARY = 3, 2, 48, 64
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
MODES = ("none", "selective", "full")


class Operators(LiveMemory):
    """Counts what is really computed, and the memory of real tensors."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__([*model.parameters(), *model.buffers()], VOCABULARY)
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.name().rpartition("::")[2]] += 1
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor)
        return made


def build(attention: str = "documents", **changes: Any) -> PreTrainedModel:
    register_document_attention()
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY,
    }
    config = LlamaConfig(**sizes, intermediate_size=80, num_key_value_heads=2, **changes)
    model: PreTrainedModel = LlamaForCausalLM._from_config(config, attn_implementation=attention)
    return model.train()


def train(model: PreTrainedModel, mode: str, precision: str = "fp32") -> tuple[list[Any], Counter[str], int]:
    """Return losses and gradients of two micro-batches, what the last one computed, and the most memory it took."""
    save_activations(model, mode, torch.device("cpu"))
    enable_token_losses(model)
    losses = []
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        torch.manual_seed(number)  # dropout
        ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=generator)
        border = 10 + 7 * number
        positions = torch.cat([torch.arange(border), torch.arange(LENGTH - border)]).expand(ROWS, -1)
        with Operators(model) as operators:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                losses_BT = token_losses(model, ids, ids.roll(-1, 1), positions)
            torch.autograd.backward(losses_BT.sum())
            losses.append(losses_BT.detach())
            del losses_BT
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [*losses, *gradients], operators.seen, operators.peak_bytes


@cache
def train_plain(mode: str, attention: str, precision: str) -> tuple[list[Any], Counter[str], int]:
    return train(build(attention), mode, precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["documents", "sdpa", "eager"])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_losses_and_gradients_stay_the_same_bit_for_bit(mode: str, attention: str, precision: str) -> None:
    expected, found = (train_plain(each, attention, precision)[0] for each in ("none", mode))
    assert len(found) == 2 + len(list(build().parameters()))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("attention", ["documents", "sdpa"])
def test_selective_makes_no_product_and_no_attention_twice(attention: str) -> None:
    none, selective, full = (train_plain(mode, attention, "bf16")[1] for mode in MODES)
    assert none["mm"] == selective["mm"]
    assert none[ATTENTION] == selective[ATTENTION]
    assert selective["silu"] == 2 * none["silu"]
    # The last product of a layer is not made again, since nothing before it needs it.
    assert full["mm"] == none["mm"] + 6 * LAYERS
    assert full[ATTENTION] == 2 * none[ATTENTION]


def test_selective_is_between_none_and_full_in_memory() -> None:
    none, selective, full = (train_plain(mode, "sdpa", "bf16")[2] for mode in MODES)
    assert full < selective < none
    assert selective < 0.75 * none


def test_scores_that_grow_with_the_square_of_the_length_are_not_kept() -> None:
    products = [train_plain(mode, "eager", "bf16")[1]["bmm"] for mode in MODES]
    assert products == [products[0], products[0] + LAYERS, products[0] + 2 * LAYERS]


def test_adapters_and_dropout_stay_the_same_too() -> None:
    found = []
    for mode in ("none", "selective"):
        model = build(attention_dropout=0.1)
        add_adapter(
            model, AdapterSettings(method="lora", rank=4, alpha=8.0, dropout=0.1), seed=0, base="a/base"
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
        found.append(train(model.train(), mode)[0])
    assert len(found[0]) == 2 + 2 * 7 * LAYERS
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_a_layer_that_is_used_twice_is_cast_alike_both_times() -> None:
    found = []
    for mode in ("none", "selective"):
        model = build()
        model.model.layers[2] = model.model.layers[0]
        found.append(train(model, mode, "bf16")[0])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=0.02, atol=0.02
        )  # casts of gradients are summed elsewhere


def test_other_families_can_do_it() -> None:
    found = []
    for mode in ("none", "selective"):
        torch.manual_seed(0)
        sizes = {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "vocab_size": VOCABULARY,
        }
        config = OPTConfig(**sizes, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64)
        found.append(train(OPTForCausalLM(config).train(), mode)[0])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_a_model_without_a_place_for_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    with pytest.raises(ModelError, match="cannot compute activations again"):
        recompute_layers(build(), "selective")
