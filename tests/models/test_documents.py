"""No token sees another document, in transformers' own masks for rows whose positions restart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

FAMILIES = ("llama", "llama3", "qwen3", "gemma3", "mistral")
LENGTHS = (
    (5, 1, 10, 8),
    (13, 11),
)  # documents of the two rows; 10, 13 and 11 exceed the sliding windows of 6


def _positions() -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in LENGTHS])


def _input_ids() -> torch.Tensor:
    return torch.randint(4, 300, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_document_has_the_logits_it_has_alone(tiny: Any, family: str, attention: str) -> None:
    model = tiny.build_model(family)
    model.set_attn_implementation(attention)
    input_ids = _input_ids()
    packed = model(input_ids=input_ids, position_ids=_positions(), use_cache=False).logits
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            alone = model(input_ids=input_ids[row : row + 1, start : start + length], use_cache=False).logits
            torch.testing.assert_close(packed[row, start : start + length], alone[0], atol=2e-4, rtol=1e-4)
            start += length


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_changing_a_document_changes_no_other(tiny: Any, family: str, attention: str) -> None:
    model = tiny.build_model(family)
    model.set_attn_implementation(attention)
    before_ids, after_ids = _input_ids(), _input_ids()
    after_ids[0, 6:16] = (after_ids[0, 6:16] + 17) % 300  # the third document of the first row
    before, after = (
        model(input_ids=ids, position_ids=_positions(), use_cache=False).logits
        for ids in (before_ids, after_ids)
    )
    changed = (before != after).any(dim=-1)
    assert changed[0, 6:16].all()
    assert not changed[0, :6].any()
    assert not changed[0, 16:].any()
    assert not changed[1].any()


@torch.no_grad()
def test_a_mask_of_ones_switches_the_documents_off(tiny: Any) -> None:
    model = tiny.build_model("llama")
    input_ids, position_ids = _input_ids(), _positions()
    kept_apart = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
    mixed = model(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=torch.ones_like(input_ids),
        use_cache=False,
    ).logits
    assert (kept_apart[0, :5] - mixed[0, :5]).abs().max() < 1e-4  # the first document has nothing before it
    assert (kept_apart[0, 6:] - mixed[0, 6:]).abs().max() > 0.1


@torch.no_grad()
def test_a_sliding_window_hides_the_distant_tokens_of_the_same_document(tiny: Any) -> None:
    model = tiny.build_model("mistral")  # 2 layers with windows of 6: a token reaches 10 back
    before_ids = _input_ids()[1:]
    after_ids = before_ids.clone()
    after_ids[0, 0] = (after_ids[0, 0] + 17) % 300
    positions = torch.arange(24)[None]
    before, after = (
        model(input_ids=ids, position_ids=positions, use_cache=False).logits
        for ids in (before_ids, after_ids)
    )
    changed = (before != after).any(dim=-1)[0]
    assert changed[:11].all()
    assert not changed[11:].any()
