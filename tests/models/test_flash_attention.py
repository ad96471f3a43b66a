"""FlashAttention over packed documents against eager attention, with the operator replaced on the CPU."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import CheckpointPolicy
from transformers import Llama4ForCausalLM, Llama4TextConfig

from biomedllama_cli.engine.activation_checkpointing import _Chooser
from biomedllama_cli.errors import ModelError, UnavailableError
from biomedllama_cli.models import flash_attention as flash_module
from biomedllama_cli.models.attention_names import check_attention
from biomedllama_cli.models.flash_attention import (
    LaidOutDocuments,
    attend_with_package,
    attend_with_torch,
    find_flash_obstacle,
    register_flash_attention,
    try_operator,
)
from biomedllama_cli.models.load import load_model

FAMILIES = ("llama", "llama3", "qwen2", "qwen3", "gemma3", "mistral")
PACKED = [[5, 1, 10, 24], [27, 13]]


def _positions(rows: list[list[int]]) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def _draw(rows: list[list[int]]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(4, 300, (len(rows), sum(rows[0])), generator=generator)
    return {"input_ids": input_ids, "position_ids": _positions(rows), "use_cache": False}


def _reference_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    ends_of_keys: torch.Tensor,
    longest: int,
    longest_keys: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What torch's `varlen_attn` computes, as its documentation says."""
    assert ends.dtype == torch.int32
    assert torch.equal(ends, ends_of_keys)
    assert longest == longest_keys == int(ends.diff().max())
    assert query.dtype == key.dtype == value.dtype
    assert query.shape[-1] % 8 == 0
    assert enable_gqa or query.shape[1] == key.shape[1]
    before, after = window_size
    assert after == 0
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    mixed = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        own_query, own_key, own_value = (part[start:end] for part in (query, key, value))
        scores = torch.einsum("qhk,shk->hqs", own_query, own_key) * scale
        apart = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (apart >= 0) if before == -1 else (apart >= 0) & (apart <= before)
        mixed.append(
            torch.einsum("hqs,shk->qhk", scores.masked_fill(~seen, -torch.inf).softmax(-1), own_value)
        )
    return torch.cat(mixed)


@pytest.fixture
def varlen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Stand in for torch's operator, in fp32 too, and collect the ends it is called with."""
    register_flash_attention()
    calls: list[torch.Tensor] = []

    def attend(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(args[3])
        return _reference_varlen(*args, **kwargs)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attend)
    monkeypatch.setattr(flash_module, "_find_operator", lambda dtype: attend_with_torch)
    monkeypatch.setattr(flash_module, "_DTYPES", (torch.float32, torch.bfloat16, torch.float16))
    return calls


@pytest.mark.parametrize("rows", [PACKED, [[40]], [[40], [40]], [[1] * 40, [39, 1], [20, 20]]])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_equal_eager(
    tiny: Any, varlen: list[torch.Tensor], family: str, rows: list[list[int]]
) -> None:
    results = {}
    for name in ("eager", "varlen"):
        model = tiny.build_model(family).train()
        model.set_attn_implementation(name)
        loss = model(**_draw(rows)).logits.logsumexp(-1).square().mean()
        loss.backward()
        results[name] = [loss.detach(), *(parameter.grad for parameter in model.parameters())]
    assert len(varlen) == 2  # one call per layer
    assert varlen[0].diff().tolist() == [length for row in rows for length in row]
    for ours, expected in zip(results["varlen"], results["eager"], strict=True):
        assert (ours - expected).norm() <= 1e-4 * expected.norm() + 1e-6


@pytest.mark.parametrize("window", [1, 3, 24, 27, 28])
def test_a_window_is_that_of_eager(tiny: Any, varlen: list[torch.Tensor], window: int) -> None:
    logits = []
    for name in ("eager", "varlen"):
        model = tiny.build_model("mistral")
        model.config.sliding_window = window
        model.set_attn_implementation(name)
        logits.append(model(**_draw(PACKED)).logits)
    assert varlen
    torch.testing.assert_close(*logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [PACKED, [[40]], [[40], [40]]])
def test_chunks_are_those_of_eager(varlen: list[torch.Tensor], rows: list[list[int]]) -> None:
    """Chunks end where they end, whether there is a restart in the batch or not; a window would reach over."""
    config = Llama4TextConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        moe_layers=[],
        no_rope_layers=[1, 0],
        attention_chunk_size=16,
        initializer_range=0.3,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
    )
    logits = []
    for name in ("eager", "varlen"):
        torch.manual_seed(0)
        model = Llama4ForCausalLM(config).eval()
        model.set_attn_implementation(name)
        logits.append(model(**_draw(rows)).logits)
    assert len(varlen) == 2
    torch.testing.assert_close(*logits, atol=2e-4, rtol=1e-4)


def test_heads_of_any_size_reach_the_operator(tiny: Any, varlen: list[torch.Tensor]) -> None:
    model = tiny.build_model("llama3")  # heads of 4, which are lengthened to 8
    assert model.config.hidden_size // model.config.num_attention_heads == 4
    model.set_attn_implementation("varlen")
    model(**_draw(PACKED))
    assert varlen


def test_the_package_is_called_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(*args: Any, softmax_scale: float, causal: bool, window_size: tuple[int, int]) -> torch.Tensor:
        assert causal
        return _reference_varlen(*args, scale=softmax_scale, window_size=window_size, enable_gqa=True)

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=attend))
    assert try_operator(attend_with_package, torch.device("cpu"), torch.bfloat16) is None


def test_an_operator_with_wrong_results_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend_without_window(*args: Any, **kwargs: Any) -> torch.Tensor:
        return _reference_varlen(*args, **kwargs | {"window_size": (-1, 0)})

    def attend_to_all(*args: Any, **kwargs: Any) -> torch.Tensor:
        ends = torch.tensor([0, len(args[0])], dtype=torch.int32)
        return _reference_varlen(*args[:3], ends, ends, len(args[0]), len(args[0]), **kwargs)

    cpu, path = torch.device("cpu"), "torch.nn.attention.varlen.varlen_attn"
    monkeypatch.setattr(path, _reference_varlen)
    assert try_operator(attend_with_torch, cpu, torch.float16) is None
    for wrong in (attend_without_window, attend_to_all):
        monkeypatch.setattr(path, wrong)
        assert "not those of plain attention" in str(try_operator(attend_with_torch, cpu, torch.float16))


def test_the_first_operator_that_runs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def try_it(operator: Any, device: torch.device, dtype: torch.dtype) -> str | None:
        if operator is attend_with_torch:
            raise RuntimeError("no kernel\nfor this device")
        return None if dtype == torch.float16 else "wrong"

    monkeypatch.setattr(flash_module, "try_operator", try_it)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    flash_module._find_operator.cache_clear()
    try:
        assert find_flash_obstacle("cuda", torch.float16) is None
        assert flash_module._find_operator(torch.float16) is attend_with_package
        assert find_flash_obstacle("cuda", torch.bfloat16) == (
            "torch: no kernel for this device; flash-attn: wrong"
        )
    finally:
        flash_module._find_operator.cache_clear()


def test_autocast_and_gradient_checkpointing_reach_the_operator(
    tiny: Any, varlen: list[torch.Tensor]
) -> None:
    model = tiny.build_model("llama3").train()
    model.set_attn_implementation("varlen")
    model.gradient_checkpointing_enable()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**_draw(PACKED)).logits.sum().backward()
    assert len(varlen) == 4  # two layers, and again in the backward pass


@torch.no_grad()
def test_what_the_operator_does_not_take_falls_back_without_leaking(
    tiny: Any, varlen: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash_module, "_DTYPES", (torch.bfloat16,))
    padding = torch.ones(2, 40, dtype=torch.long)
    padding[0, :5] = 0
    results = []
    for name in ("eager", "varlen"):
        model = tiny.build_model("gemma3")
        model.set_attn_implementation(name)
        padded = model(_draw(PACKED)["input_ids"], attention_mask=padding).logits[padding.bool()]
        results.append((model(**_draw(PACKED)).logits, padded))
    assert not varlen  # fp32: document by document
    torch.testing.assert_close(*results, atol=2e-4, rtol=1e-4)


def test_what_it_cannot_do_is_refused(
    tiny: Any, varlen: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash_module, "_DTYPES", (torch.bfloat16, torch.float16))
    for dtype, words in (
        (torch.bfloat16, "it needs CUDA"),
        (torch.float32, "bf16 and fp16 alone, not in float32"),
    ):
        with pytest.raises(
            UnavailableError, match=f"flash_attention_2 cannot be used for training: .*{words}"
        ):
            check_attention("flash_attention_2", torch.device("cpu"), dtype)
    documents = LaidOutDocuments((4,), None, torch.tensor([0, 4], dtype=torch.int32))
    part = torch.zeros(1, 2, 4, 8, dtype=torch.bfloat16)
    for extra in ({"s_aux": torch.ones(2)}, {"dropout": 0.1}):
        with pytest.raises(ModelError):
            flash_module.attend_to_documents(torch.nn.Module(), part, part, part, documents, **extra)


def test_a_saved_model_does_not_carry_the_name(tmp_path: Any) -> None:
    model = load_model("scratch:tiny", attention="flash_attention_2", vocabulary_size=300)
    assert model.config._attn_implementation == "varlen"
    model.save_pretrained(tmp_path)
    assert "varlen" not in (tmp_path / "config.json").read_text()
    assert load_model(str(tmp_path)).config._attn_implementation == "sdpa"


def test_selective_checkpointing_keeps_what_the_operator_made() -> None:
    importlib.import_module("torch.nn.attention.varlen")
    operator = torch.ops.torch_attn._varlen_attn.default
    assert _Chooser(0).choose(None, operator) == CheckpointPolicy.MUST_SAVE
