"""Packed examples give the loss and the gradients that they give padded, and one by one."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from biomedllama_cli.engine.rows import Batch
from biomedllama_cli.engine.step import forward_losses
from biomedllama_cli.engine.tuning_rows import TuningRows
from biomedllama_cli.instructions.encoding import EncodedSet
from biomedllama_cli.instructions.packing import Pack, lay_out
from biomedllama_cli.models import attention as attention_module
from biomedllama_cli.models import document_attention
from biomedllama_cli.models.attention import register_xformers
from biomedllama_cli.models.document_attention import DOCUMENT_ATTENTION, register_document_attention
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.recipes.training import choose_attention
from biomedllama_cli.settings.pretrain import NumericsSettings

FAMILIES = ("llama", "llama3", "qwen3", "gemma3", "mistral")
EXACT = 1e-5
"""Largest difference of a gradient, over the largest gradient of its tensor."""

Gradients = dict[str, torch.Tensor]


def _rows() -> TuningRows:
    """Return twelve examples of 3 to 25 tokens, longer than the sliding windows of 6, with loss on their ends."""
    generator = np.random.default_rng(5)
    lengths = generator.integers(3, 26, 12)
    starts = np.cumsum([0, *lengths])
    trained = np.zeros(starts[-1], dtype=bool)
    for start, end in pairwise(starts):
        trained[start + (end - start) // 2 + 1 : end] = True
    token_ids = generator.integers(4, 300, starts[-1]).astype(np.uint32)
    names = [str(number) for number in range(12)]
    encoded = EncodedSet(token_ids, trained, starts, names, names, np.zeros(12, dtype=np.int64))
    return TuningRows(encoded, eos_id=2, sequence_length=64)


def _learn(model: Any, batches: list[Batch]) -> tuple[float, Gradients]:
    """Return the loss summed over all batches, and its gradients."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = forward_losses(model, batch).sum()
        loss.backward()
        total += loss.item()
    return total, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def _largest_difference(found: Gradients, expected: Gradients) -> float:
    return max(
        float((found[name] - expected[name]).abs().max() / expected[name].abs().max()) for name in expected
    )


def _micro_batches(rows: TuningRows, *, rows_at_once: int, packing: bool) -> list[list[Pack]]:
    return lay_out(rows.lengths.tolist(), capacity=64, rows_at_once=rows_at_once, ranks=1, packing=packing)[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager", DOCUMENT_ATTENTION])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_padded_and_one_by_one_are_the_same(tiny: Any, family: str, attention: str) -> None:
    register_document_attention()
    model = tiny.build_model(family)
    model.set_attn_implementation(attention)
    enable_token_losses(model)
    rows = _rows()
    packed = _micro_batches(rows, rows_at_once=2, packing=True)
    assert max(len(pack) for packs in packed for pack in packs) > 2
    padded = _micro_batches(rows, rows_at_once=5, packing=False)
    alone = [[[number]] for number in range(len(rows))]
    expected_loss, expected = _learn(model, [rows.__getitems__(packs) for packs in alone])
    for packs in (packed, padded):
        loss, gradients = _learn(model, [rows.__getitems__(pack) for pack in packs])
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        assert _largest_difference(gradients, expected) < EXACT


@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_cpu_no_attention_is_longer_than_an_example(
    tiny: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_document_attention()
    attended: list[int] = []
    masked: list[int | None] = []

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        assert query.shape[0] == 1
        assert query.shape[2] == key.shape[2]
        attended.append(query.shape[2])
        masked.append(None if mask is None else mask.shape[-1])
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)

    monkeypatch.setattr(document_attention, "sdpa_attention_forward", attend)
    model, rows = enable_token_losses(tiny.build_model(family)), _rows()
    assert choose_attention(NumericsSettings(), torch.device("cpu")) == DOCUMENT_ATTENTION
    model.set_attn_implementation(DOCUMENT_ATTENTION)
    packs = [[0, 1, 2], [3, 4]]
    _learn(model, [rows.__getitems__(packs)])
    lengths = rows.lengths[:5].tolist()
    for pack in packs:  # the padding of a row continues its last example
        lengths[pack[-1]] += rows.width(packs) - int(rows.lengths[pack].sum())
    assert attended == lengths * model.config.num_hidden_layers
    window = getattr(model.config, "sliding_window", None)
    assert all(size is None or (window and size > window) for size in masked)


@pytest.mark.skipif(importlib.util.find_spec("xformers") is None, reason="xformers is not installed")
@pytest.mark.parametrize("family", FAMILIES)
def test_xformers_keeps_packed_examples_apart(
    tiny: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_xformers()
    biases: list[Any] = []

    def attend(query: Any, key: Any, value: Any, bias: Any, *, dropout: float, scale: float) -> torch.Tensor:
        """Compute what the operator does, with its bias as a tensor."""
        biases.append(bias)
        scores = torch.einsum("bqhk,bshk->bhqs", query, key) * scale
        scores = scores + bias.materialize((query.shape[1],) * 2, dtype=scores.dtype)
        return torch.einsum("bhqs,bshk->bqhk", scores.softmax(-1), value)

    monkeypatch.setattr(attention_module, "_attend", attend)
    model, rows = tiny.build_model(family), _rows()
    enable_token_losses(model)
    model.set_attn_implementation("eager")
    expected_loss, expected = _learn(model, [rows[[number]] for number in range(len(rows))])
    model.set_attn_implementation("xformers")
    packed = _micro_batches(rows, rows_at_once=2, packing=True)
    loss, gradients = _learn(model, [rows.__getitems__(packs) for packs in packed])
    assert biases
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert _largest_difference(gradients, expected) < EXACT


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_that_go_on_would_leak_and_be_seen(tiny: Any, family: str) -> None:
    model, rows = enable_token_losses(tiny.build_model(family)), _rows()
    _, expected = _learn(model, [rows[[number]] for number in range(len(rows))])
    leaking = [rows.__getitems__(packs) for packs in _micro_batches(rows, rows_at_once=2, packing=True)]
    for batch in leaking:
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
    _, gradients = _learn(model, leaking)
    assert _largest_difference(gradients, expected) > 1000 * EXACT


def test_what_stands_in_padding_changes_nothing(tiny: Any) -> None:
    model, rows = enable_token_losses(tiny.build_model("mistral")), _rows()
    batch = rows.__getitems__([[0], [1, 2, 3], [4, 5]])
    loss, gradients = _learn(model, [batch])
    changed = {name: tensor.clone() for name, tensor in batch.items()}
    for line, pack in enumerate([[0], [1, 2, 3], [4, 5]]):
        changed["input_ids"][line, int(rows.lengths[pack].sum()) :] = 77
    assert not torch.equal(changed["input_ids"], batch["input_ids"])
    changed_loss, changed_gradients = _learn(model, [changed])
    assert changed_loss == loss
    assert all(torch.equal(changed_gradients[name], gradients[name]) for name in gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_micro_batch_without_examples_adds_zero_to_every_gradient(tiny: Any, family: str) -> None:
    model, rows = enable_token_losses(tiny.build_model(family)), _rows()
    loss, gradients = _learn(model, [rows.__getitems__([[]])])
    assert loss == 0.0
    assert all(not gradient.any() for gradient in gradients.values())
    assert gradients.keys() == dict(model.named_parameters()).keys()
