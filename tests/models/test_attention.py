"""xformers' bias and attention function against eager attention, with the operator replaced on the CPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from biomedllama_cli.errors import UnavailableError
from biomedllama_cli.models import attention as attention_module
from biomedllama_cli.models.attention import (
    build_document_bias,
    find_xformers_obstacle,
    register_xformers,
    resolve_attention,
)

needs_xformers = pytest.mark.skipif(
    importlib.util.find_spec("xformers") is None, reason="xformers is not installed"
)
FAMILIES = ("llama", "llama3", "qwen3", "gemma3", "mistral")

rows_of_documents = st.lists(
    st.lists(st.integers(1, 9), min_size=1, max_size=6)
    .map(lambda lengths: [*lengths, 40 - sum(lengths)])
    # A row of 40 tokens; six documents of at most 9 cannot fill it.
    .filter(lambda lengths: lengths[-1] > 0),
    min_size=1,
    max_size=3,
)


def test_why_attention_is_sdpa_is_said_once_in_a_process(caplog: pytest.LogCaptureFixture) -> None:
    attention_module._tell_sdpa.cache_clear()
    with caplog.at_level("DEBUG", logger="biomedllama_cli"):
        assert [resolve_attention("auto", "cpu") for _ in range(3)] == ["sdpa"] * 3
    assert caplog.text.count("xformers cannot be used") == 1
    assert caplog.records[-1].levelname == "DEBUG"  # nobody on a CPU asked for xformers


def _positions(rows: list[list[int]]) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def _reference_attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: Any,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    """What the operator computes (M = all tokens of the batch in one row), with its bias as a tensor."""
    assert dropout == 0.0
    assert query.shape[0] == 1
    assert query.shape == key.shape == value.shape
    assert query.dtype == key.dtype == value.dtype
    length, size = query.shape[1], query.shape[-1]
    scores = torch.einsum("bqhk,bshk->bhqs", query, key) * (size**-0.5 if scale is None else scale)
    scores = scores + bias.materialize((length, length), dtype=scores.dtype)
    return torch.einsum("bhqs,bshk->bqhk", scores.softmax(-1), value)


@pytest.fixture
def reference_operator(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for the operator and collect the biases it is called with."""
    register_xformers()
    biases: list[Any] = []

    def attend(*args: Any, **kwargs: Any) -> torch.Tensor:
        biases.append(args[3])
        return _reference_attend(*args, **kwargs)

    monkeypatch.setattr(attention_module, "_attend", attend)
    return biases


@needs_xformers
@settings(max_examples=60)
@given(rows=rows_of_documents, window=st.one_of(st.none(), st.integers(1, 45)))
def test_the_bias_equals_the_eager_mask(tiny: Any, rows: list[list[int]], window: int | None) -> None:
    register_xformers()
    model = tiny.build_model("mistral", 20)
    model.config.sliding_window = window
    build = create_causal_mask if window is None else create_sliding_window_causal_mask
    masks = {}
    for name in ("eager", "xformers"):
        model.set_attn_implementation(name)
        masks[name] = build(
            config=model.config,
            inputs_embeds=torch.zeros(len(rows), 40, 4),
            attention_mask=None,
            past_key_values=None,
            position_ids=_positions(rows),
        )
    visible = masks["xformers"].materialize((len(rows) * 40, len(rows) * 40)) == 0
    expected = torch.block_diag(*(mask[0] == 0 for mask in masks["eager"])).bool()
    assert torch.equal(visible, expected)


@needs_xformers
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_equal_eager(tiny: Any, reference_operator: list[Any], family: str) -> None:
    input_ids = torch.randint(4, 300, (2, 24), generator=torch.Generator().manual_seed(1))
    position_ids = _positions([[5, 1, 10, 8], [13, 11]])
    results = {}
    for name in ("eager", "xformers"):
        model = tiny.build_model(family)
        model.set_attn_implementation(name)
        logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
        logits.square().mean().backward()
        results[name] = (logits, model.get_input_embeddings().weight.grad)
    assert len(reference_operator) == 2  # one call per layer
    torch.testing.assert_close(results["xformers"][0], results["eager"][0], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(results["xformers"][1], results["eager"][1], atol=2e-4, rtol=1e-3)


@needs_xformers
def test_layers_of_a_kind_share_one_bias(tiny: Any, reference_operator: list[Any]) -> None:
    input_ids = torch.arange(20)[None]
    for family, distinct in (("llama", 1), ("gemma3", 2)):
        reference_operator.clear()
        model = tiny.build_model(family)
        model.set_attn_implementation("xformers")
        model(input_ids=input_ids, position_ids=_positions([[12, 8]]), use_cache=False)
        assert len({id(bias) for bias in reference_operator}) == distinct


@needs_xformers
def test_autocast_gives_the_operator_one_dtype(tiny: Any, reference_operator: list[Any]) -> None:
    model = tiny.build_model("llama3")
    model.set_attn_implementation("xformers")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=torch.arange(20)[None], use_cache=False)
    assert reference_operator


@needs_xformers
def test_gradient_checkpointing_hands_the_bias_through(tiny: Any, reference_operator: list[Any]) -> None:
    model = tiny.build_model("gemma3").train()
    model.set_attn_implementation("xformers")
    model.gradient_checkpointing_enable()
    position_ids = _positions([[12, 8]])
    model(
        input_ids=torch.arange(20)[None], position_ids=position_ids, use_cache=False
    ).logits.sum().backward()
    assert len(reference_operator) == 4  # two layers, and again in the backward pass


@needs_xformers
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_padding_and_a_cache_fall_back_to_sdpa(tiny: Any, reference_operator: list[Any], family: str) -> None:
    input_ids = torch.randint(4, 300, (2, 16), generator=torch.Generator().manual_seed(1))
    padding = torch.ones_like(input_ids)
    padding[0, :5] = 0
    padding_right = padding.flip(1)
    results = {}
    for name in ("sdpa", "xformers"):
        model = tiny.build_model(family)
        model.set_attn_implementation(name)
        left = model(input_ids=input_ids, attention_mask=padding).logits[padding.bool()]
        right = model(input_ids=input_ids, attention_mask=padding_right).logits[padding_right.bool()]
        assert not reference_operator
        # A prefix in a cache, then single tokens, then several at once.
        outputs = model(input_ids=input_ids[:, :9], use_cache=True)
        logits = [outputs.logits]
        for part in (input_ids[:, 9:10], input_ids[:, 10:16]):
            outputs = model(input_ids=part, past_key_values=outputs.past_key_values, use_cache=True)
            logits.append(outputs.logits)
        results[name] = (
            left,
            right,
            torch.cat(logits, 1),
            model(input_ids=input_ids, use_cache=False).logits,
        )
    reference_operator.clear()
    for ours, expected in zip(results["xformers"], results["sdpa"], strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(results["xformers"][2], results["xformers"][3], atol=2e-4, rtol=1e-4)


@needs_xformers
@torch.no_grad()
def test_generation_equals_sdpa(tiny: Any, reference_operator: list[Any]) -> None:
    prompt = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    generated = []
    for name in ("sdpa", "xformers"):
        model = tiny.build_model("gemma3")
        model.set_attn_implementation(name)
        generated.append(
            model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
        )
    assert torch.equal(*generated)


@needs_xformers
@torch.no_grad()
def test_attention_that_looks_ahead_falls_back_to_a_dense_mask(
    tiny: Any, reference_operator: list[Any]
) -> None:
    input_ids = torch.arange(20)[None]
    results = []
    for name in ("sdpa", "xformers"):
        model = tiny.build_model("llama")
        model.config.is_causal = False
        model.set_attn_implementation(name)
        for layer in model.model.layers:
            layer.self_attn.is_causal = False
        results.append(model(input_ids=input_ids, use_cache=False).logits)
    assert not reference_operator
    torch.testing.assert_close(*results)


@needs_xformers
def test_a_window_wider_than_every_document_is_left_out() -> None:
    plain = build_document_bias([3, 5], torch.device("cpu"))
    assert type(build_document_bias([3, 5], torch.device("cpu"), window=5)) is type(plain)
    assert type(build_document_bias([3, 5], torch.device("cpu"), window=4)) is not type(plain)


def test_auto_takes_sdpa_on_the_cpu() -> None:
    assert resolve_attention("auto", torch.device("cpu")) == "sdpa"


def test_auto_takes_xformers_where_its_operator_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "find_xformers_obstacle", lambda device_type, dtype: None)
    assert resolve_attention("auto", torch.device("cuda")) == "xformers"
    monkeypatch.setattr(attention_module, "find_xformers_obstacle", lambda device_type, dtype: "it is broken")
    assert resolve_attention("auto", torch.device("cuda")) == "sdpa"


def test_the_operator_is_tried_in_the_dtype_it_will_run_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        attention_module,
        "find_xformers_obstacle",
        lambda device_type, dtype: None if dtype == torch.float16 else "no bf16 on this device",
    )
    assert resolve_attention("auto", "cuda", torch.float16) == "xformers"
    assert resolve_attention("auto", "cuda", torch.bfloat16) == "sdpa"


def test_xformers_on_the_cpu_is_refused_with_the_extra_to_install() -> None:
    with pytest.raises(UnavailableError, match="needs CUDA") as caught:
        resolve_attention("xformers", torch.device("cpu"))
    assert "biomedllama-cli[gpu]" in caught.value.hint


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_an_explicit_implementation_is_kept(name: str) -> None:
    assert resolve_attention(name, torch.device("cuda")) == name


@needs_xformers
def test_importing_xformers_prints_nothing() -> None:
    code = (
        "import sys, torch; from biomedllama_cli.models import attention as a; a.register_xformers();"
        "assert 'xformers' not in sys.modules;"
        "a.build_document_bias([2], torch.device('cpu')); assert 'xformers' in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout + result.stderr == ""


@pytest.mark.gpu
@needs_xformers
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_operator_on_a_gpu_equals_eager(tiny: Any, family: str) -> None:
    if obstacle := find_xformers_obstacle("cuda", torch.bfloat16):
        pytest.skip(obstacle)
    register_xformers()
    input_ids = torch.randint(4, 300, (2, 24), generator=torch.Generator().manual_seed(1)).cuda()
    position_ids = _positions([[5, 1, 10, 8], [13, 11]]).cuda()
    results = {}
    for name in ("eager", "xformers"):
        model = tiny.build_model(family).cuda()
        model.set_attn_implementation(name)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
        logits.float().square().mean().backward()
        results[name] = (logits.float(), model.get_input_embeddings().weight.grad)
    for ours, expected in zip(results["xformers"], results["eager"], strict=True):
        assert (ours - expected).norm() < 0.03 * expected.norm()
