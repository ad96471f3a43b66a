"""Flex attention: its mask of blocks against torch's own and the eager one, its results against eager attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask

from biomedllama_cli.errors import ModelError, UnavailableError
from biomedllama_cli.models import flex_attention as flex_module
from biomedllama_cli.models.attention_names import check_attention
from biomedllama_cli.models.flex_attention import build_block_mask, register_flex_attention
from biomedllama_cli.models.load import load_model

FAMILIES = ("llama", "llama3", "qwen2", "qwen3", "gemma3", "mistral")
PACKED = [[150, 1, 60, 89], [200, 100]]  # rows of 300 tokens: three blocks, the last one not full

rows_of_documents = st.lists(
    st.lists(st.integers(1, 200), max_size=4).filter(lambda lengths: sum(lengths) < 400),
    min_size=1,
    max_size=3,
).map(lambda rows: [[*lengths, 400 - sum(lengths)] for lengths in rows])


def _positions(rows: list[list[int]]) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def _draw(rows: list[list[int]]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(4, 300, (len(rows), sum(rows[0])), generator=generator)
    return {"input_ids": input_ids, "position_ids": _positions(rows), "use_cache": False}


def _see(mask: BlockMask, batch: int, length: int) -> torch.Tensor:
    return create_mask(mask.mask_mod, batch, 1, length, length, device="cpu")[:, 0]


@settings(max_examples=30)
@given(rows=rows_of_documents, window=st.one_of(st.none(), st.integers(1, 450)))
def test_the_blocks_are_those_that_torch_finds_by_looking_at_every_pair(
    rows: list[list[int]], window: int | None
) -> None:
    mask = build_block_mask(rows, torch.device("cpu"), window)
    documents_BT = (_positions(rows) == 0).cumsum(1)
    apart_TT = torch.arange(400)[:, None] - torch.arange(400)
    wanted_BTT = (documents_BT[:, :, None] == documents_BT[:, None]) & (apart_TT >= 0)
    if window is not None:
        wanted_BTT &= apart_TT < window
    assert torch.equal(_see(mask, len(rows), 400), wanted_BTT)
    theirs = create_block_mask(mask.mask_mod, len(rows), 1, 400, 400, device="cpu")
    assert torch.equal(mask.to_dense(), theirs.to_dense())  # blocks that are looked at
    whole, their_whole = (
        [
            [set(places[:count].tolist()) for count, places in zip(*row, strict=True)]
            for row in zip(one.full_kv_num_blocks[:, 0], one.full_kv_indices[:, 0], strict=True)
        ]
        for one in (mask, theirs)
    )
    for ours_N, theirs_N in zip(whole, their_whole, strict=True):
        # The last block of queries is not full: torch then calls none of its blocks whole.
        assert ours_N[:-1] == theirs_N[:-1]


@pytest.fixture
def seen_masks(monkeypatch: pytest.MonkeyPatch) -> list[BlockMask]:
    """Stand in for the operator, which has no backward pass on a CPU, and collect the masks it is called with."""
    register_flex_attention()
    masks: list[BlockMask] = []

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: BlockMask,
        *,
        scale: float | None,
    ) -> torch.Tensor:
        assert query.dtype == key.dtype == value.dtype
        masks.append(mask)
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
        seen = _see(mask, len(query), query.shape[2])[:, None]
        return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value

    monkeypatch.setattr(flex_module, "_attend", attend)
    return masks


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*")
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_operator_gives_what_sdpa_gives(tiny: Any, family: str) -> None:
    register_flex_attention()
    logits = {}
    for name in ("sdpa", "flex"):
        model = tiny.build_model(family)
        model.set_attn_implementation(name)
        logits[name] = model(**_draw(PACKED)).logits
    torch.testing.assert_close(logits["flex"], logits["sdpa"], atol=2e-4, rtol=1e-4)
    model.set_attn_implementation("sdpa")
    leaking = model(**_draw(PACKED) | {"position_ids": None}).logits
    assert not torch.allclose(leaking, logits["flex"], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_equal_eager(tiny: Any, seen_masks: list[BlockMask], family: str) -> None:
    results = {}
    for name in ("eager", "flex"):
        model = tiny.build_model(family).train()
        model.set_attn_implementation(name)
        loss = model(**_draw(PACKED)).logits.logsumexp(-1).square().mean()
        loss.backward()
        results[name] = [loss.detach(), *(parameter.grad for parameter in model.parameters())]
    assert len(seen_masks) == 2  # one call per layer
    for ours, expected in zip(results["flex"], results["eager"], strict=True):
        assert (ours - expected).norm() <= 1e-4 * expected.norm() + 1e-6


def test_layers_of_a_kind_share_one_mask(tiny: Any, seen_masks: list[BlockMask]) -> None:
    for family, distinct in (("llama", 1), ("gemma3", 2)):
        seen_masks.clear()
        model = tiny.build_model(family)
        model.set_attn_implementation("flex")
        model(**_draw(PACKED))
        assert len({id(mask) for mask in seen_masks}) == distinct


def test_autocast_and_gradient_checkpointing_reach_the_operator(
    tiny: Any, seen_masks: list[BlockMask]
) -> None:
    model = tiny.build_model("llama3").train()
    model.set_attn_implementation("flex")
    model.gradient_checkpointing_enable()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**_draw(PACKED)).logits.sum().backward()
    assert len(seen_masks) == 4  # two layers, and again in the backward pass


@torch.no_grad()
def test_padding_falls_back_to_sdpa(tiny: Any, seen_masks: list[BlockMask]) -> None:
    padding = torch.ones(2, 300, dtype=torch.long)
    padding[0, :20] = 0
    results = []
    for name in ("sdpa", "flex"):
        model = tiny.build_model("gemma3")
        model.set_attn_implementation(name)
        results.append(model(_draw(PACKED)["input_ids"], attention_mask=padding).logits[padding.bool()])
    assert not seen_masks
    torch.testing.assert_close(*results)


def test_what_flex_cannot_do_is_refused(tiny: Any, seen_masks: list[BlockMask]) -> None:
    with pytest.raises(
        UnavailableError, match="flex cannot be used for training: it has a backward pass on CUDA"
    ):
        check_attention("flex", torch.device("cpu"), torch.float32)
    check_attention("sdpa", torch.device("cpu"), torch.float32)
    model = tiny.build_model("llama").train()
    model.config.attention_dropout = 0.1
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    model.set_attn_implementation("flex")
    with pytest.raises(ModelError, match=r"attention_dropout is 0.1"):
        model(**_draw(PACKED))


def test_a_saved_model_does_not_carry_the_name(tmp_path: Any) -> None:
    model = load_model("scratch:tiny", attention="flex", vocabulary_size=300)
    assert model.config._attn_implementation == "flex"
    model.save_pretrained(tmp_path)
    assert "flex" not in (tmp_path / "config.json").read_text()
    assert load_model(str(tmp_path)).config._attn_implementation == "sdpa"
