"""Made-up results: what a table shows is known beforehand."""

from __future__ import annotations

from typing import Any

from biomedllama_cli.evaluation.cells import (
    Accuracy,
    CellFacts,
    Estimate,
    ModelFacts,
    QuestionCell,
    QuestionMetrics,
    Results,
    SourceFacts,
    TextCell,
    TextMetrics,
)

SOURCE = SourceFacts(kind="file", location="items.jsonl", rows=1273, sha256="5" * 64)


def accuracy(correct: int, n: int = 1273) -> Accuracy:
    value = correct / n
    return Accuracy(value=value, correct=correct, n=n, interval=(max(0.0, value - 0.026), value + 0.026))


def question_cell(
    correct: int,
    *,
    task: str = "medqa",
    profile: str = "paper/1",
    n: int = 1273,
    metrics: dict[str, Any] | None = None,
    **facts: Any,
) -> QuestionCell:
    numbers: dict[str, Any] = {
        "n": n,
        "n_all": 1273,
        "headline": "acc",
        "scores": {"acc": accuracy(correct, n), "acc_norm": accuracy(correct + 7, n)},
        "random": 0.25,
        "majority": 0.28,
        "context_free": accuracy(n // 4, n),
    }
    known: dict[str, Any] = {
        "prompt": {"question": "Question: {question}\nAnswer:"},
        "bos": "none",
        "context_length": 2048,
        "shots": 0,
        "draw_rule": None,
        "draws_sha256": "d" * 64,
        "items_sha256": "a" * 64,
        "pool_sha256": None,
        "source": SOURCE,
        "pool_source": None,
    }
    return QuestionCell(
        profile=profile,
        task=task,
        method="likelihood",
        metrics=QuestionMetrics(**{**numbers, **(metrics or {})}),
        facts=CellFacts(**{**known, **facts}),
        samples_file=f"samples-{profile.partition('/')[0]}-{task}.jsonl",
    )


def text_cell(
    bits: float, *, task: str = "pubmed-abstracts", profile: str = "paper/1", **changes: Any
) -> TextCell:
    changed: dict[str, Any] = {"prefix": "EOS (id 2)", "context_length": 2048, **changes}
    return TextCell(
        profile=profile,
        task=task,
        metrics=TextMetrics(
            n=30,
            n_all=30,
            words=6000,
            tokens=9000,
            utf8_bytes=42000,
            log_likelihood=-25000.5,
            word_perplexity=Estimate(value=15.7774, interval=(15.1, 16.25)),
            byte_perplexity=Estimate(value=1.8, interval=(1.7, 1.9)),
            token_perplexity=Estimate(value=8.123456, interval=(8.0, 8.2)),
            bits_per_byte=Estimate(value=bits, interval=(bits - 0.02, bits + 0.02)),
            text_sha256=changed.pop("text_sha256", "e" * 64),
        ),
        items_sha256="b" * 64,
        source=SOURCE,
        samples_file=f"samples-{profile.partition('/')[0]}-{task}.jsonl",
        **changed,
    )


def results(
    *cells: QuestionCell | TextCell,
    source: str = "chaoyi-wu/PMC_LLAMA_7B",
    created: str = "2026-11-20T10:00:00+00:00",
    self_check: float | None = None,
    **model: Any,
) -> Results:
    facts: dict[str, Any] = {
        "source": source,
        "revision": None,
        "weights_sha256": "c" * 64,
        "architecture": "LlamaForCausalLM",
        "parameters": 6738415616,
        "dtype": "fp16",
        "device": "cuda",
        "attention": "sdpa",
        "tokenizer_kind": "sentencepiece",
        "tokenizer_fingerprint": "f00dfeed" * 8,
        "tokenizer_adds_bos": True,
        "sharing": "rows and cached examples",
    }
    return Results(
        created=created,
        model=ModelFacts(**{**facts, **model}),
        seed=42,
        settings={},
        versions={},
        questions=tuple(cell for cell in cells if isinstance(cell, QuestionCell)),
        texts=tuple(cell for cell in cells if isinstance(cell, TextCell)),
        self_check=self_check,
    )
