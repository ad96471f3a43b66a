"""What is handed to vLLM, shown by a stand-in with its surface: it is not to be had without CUDA."""

from __future__ import annotations

import builtins
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from biomedllama_cli.errors import UnavailableError
from biomedllama_cli.evaluation.prompting import GenerationRule, Prompt
from biomedllama_cli.evaluation.vllm_backend import VllmGenerator
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer


@dataclass
class SamplingParams:
    """The fields of vLLM's own that are used."""

    n: int
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: list[str] | None
    stop_token_ids: list[int]


class Engine:
    """Answers every prompt with the ids of a fixed text and the end of the sequence."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self.tokenizer, self.text = tokenizer, text
        self.settings: dict[str, Any] = {}
        self.calls: list[list[tuple[list[int], SamplingParams]]] = []

    def build(self, **settings: Any) -> Engine:
        self.settings = settings
        return self

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams], use_tqdm: bool
    ) -> list[Any]:
        assert use_tqdm is False
        self.calls.append(
            [
                (prompt["prompt_token_ids"], params)
                for prompt, params in zip(prompts, sampling_params, strict=True)
            ]
        )
        ids = (*self.tokenizer.encode(self.text), self.tokenizer.eos_id)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids)]) for _ in prompts]


@pytest.fixture
def engine(tiny_model_with_bos: Any, monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine(load_tokenizer(str(tiny_model_with_bos.folder)), "A) Aspirin\n\n### Question: next")
    stand_in = SimpleNamespace(LLM=engine.build, SamplingParams=SamplingParams)
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return engine


def build(engine: Engine, **settings: Any) -> VllmGenerator:
    return VllmGenerator("some/model", engine.tokenizer, context_length=64, **settings)


def test_the_engine_is_built_for_the_model_and_runs_no_code_of_it(engine: Engine) -> None:
    build(engine, dtype="bf16", revision="abc", devices=2)
    assert engine.settings == {
        "model": "some/model",
        "revision": "abc",
        "dtype": "bfloat16",
        "max_model_len": 64,
        "tensor_parallel_size": 2,
        "trust_remote_code": False,
        "enable_prefix_caching": True,
    }


def test_greedy_requests_hold_the_ids_of_the_prompt_and_its_limits(engine: Engine) -> None:
    rule = GenerationRule(max_new_tokens=20, stop=("\n\n###",), adds_bos=True, top_p=0.5)
    prompts = [Prompt("a", "### Answer:("), Prompt("b", "word " * 200)]
    texts = dict(build(engine).generate(prompts, rule))
    assert texts == {0: "A) Aspirin", 1: "A) Aspirin"}
    ((long, params), (short, _)) = engine.calls[0]
    assert short == [0, *engine.tokenizer.encode("### Answer:(")]
    assert long == [0, *engine.tokenizer.encode("word " * 200)[-43:]]
    assert params == SamplingParams(1, 20, 0.0, 1.0, None, ["\n\n###"], [1])


def test_every_chain_is_a_request_with_a_seed_that_survives_interruption(engine: Engine) -> None:
    rule = GenerationRule(max_new_tokens=20, temperature=0.7, top_p=0.9, seed=3)
    prompts = [Prompt(item, "Aspirin is", chain) for item in ("a", "b") for chain in range(3)]
    assert len(list(build(engine).generate(prompts, rule))) == 6
    seeds = [params.seed for _, params in engine.calls[0]]
    assert len(set(seeds)) == 6
    assert all((params.temperature, params.top_p) == (0.7, 0.9) for _, params in engine.calls[0])
    rest = dict(build(engine).generate(prompts, rule, finished={0, 1, 2, 4}))
    assert sorted(rest) == [3, 5]
    # The batch that was cut short is written again as a whole: the same requests with the same seeds.
    assert [params.seed for _, params in engine.calls[1]] == seeds


def test_texts_come_back_slice_by_slice(engine: Engine) -> None:
    prompts = [Prompt(str(number), "Aspirin") for number in range(5)]
    stream = build(engine, batch_size=2).generate(prompts, GenerationRule(max_new_tokens=4))
    next(stream)
    assert len(engine.calls) == 1
    assert len(list(stream)) == 4
    assert [len(call) for call in engine.calls] == [2, 2, 1]


def test_without_a_gpu_or_the_package_the_hint_names_the_way_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="needs a CUDA device") as raised:
        build(engine)
    assert "--backend hf" in raised.value.hint
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delitem(sys.modules, "vllm")
    own_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "vllm":
            raise ModuleNotFoundError("No module named 'vllm'")
        return own_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UnavailableError, match="No module named 'vllm'") as raised:
        build(engine)
    assert "biomedllama-cli[vllm]" in raised.value.hint
