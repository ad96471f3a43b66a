"""Results folders with made-up answers, written through the same door as real ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biomedllama_cli.evaluation.cells import (
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
from biomedllama_cli.evaluation.output import write_results
from biomedllama_cli.evaluation.statistics import accuracy

SOURCE = SourceFacts(kind="file", location="items.jsonl", rows=10, sha256="0" * 64)
OPTIONS = ("yes", "no", "maybe")
PROMPT = {"answer_cue": "Answer:", "space": True}
NO_BOS, BOS = "none", "BOS (id 1)"


def build_samples(predictions: Sequence[int | None], **changes: Any) -> list[dict[str, Any]]:
    """One sample per prediction; the right option of question i is i modulo 3."""
    return [
        {
            "id": f"q{row}",
            "question": f"Is finding {row} new?",
            "options": list(OPTIONS),
            "answer_index": row % 3,
            "example_ids": [],
            "prediction": prediction,
            "correct": prediction == row % 3,
            "scores": {"acc": prediction, "letter_space_sum": 0},
            "cluster": None,
            **changes,
        }
        for row, prediction in enumerate(predictions)
    ]


def build_question_cell(
    samples: Sequence[Mapping[str, Any]],
    *,
    profile: str = "paper/1",
    task: str = "pubmedqa",
    fixed_labels: bool = False,
    truncated: int = 0,
    method: str = "likelihood",
    **facts: Any,
) -> QuestionCell:
    right = [bool(sample["correct"]) for sample in samples]
    letters = [sample["scores"]["letter_space_sum"] == sample["answer_index"] for sample in samples]
    values = {
        "prompt": PROMPT,
        "bos": NO_BOS,
        "context_length": 512,
        "shots": 0,
        "draw_rule": None,
        "draws_sha256": "d" * 64,
        "items_sha256": "e" * 64,
        "pool_sha256": None,
        "source": SOURCE,
        "pool_source": None,
    }
    return QuestionCell(
        profile=profile,
        task=task,
        method=method,
        metrics=QuestionMetrics(
            n=len(samples),
            n_all=len(samples),
            headline="acc",
            scores={"acc": accuracy(right), "letter_space_sum": accuracy(letters)},
            random=1 / 3,
            macro_f1=0.5 if fixed_labels else None,
            predicted_labels=dict.fromkeys(OPTIONS, 1) if fixed_labels else None,
            truncated_inputs=truncated,
        ),
        facts=CellFacts(**{**values, **facts}),
        samples_file=f"samples-{profile.split('/')[0]}-{task}.jsonl",
    )


def build_text_cell(
    log_likelihoods: Sequence[float], *, profile: str = "paper/1", text: str = "t", **changes: Any
) -> tuple[TextCell, list[dict[str, Any]]]:
    """Documents of 100 bytes, 20 words and 25 tokens each."""
    n, total = len(log_likelihoods), sum(log_likelihoods)
    estimate = Estimate(value=-total / n, interval=None)
    cell = TextCell(
        profile=profile,
        task="pubmed-a",
        metrics=TextMetrics(
            n=n,
            n_all=n,
            words=20 * n,
            tokens=25 * n,
            utf8_bytes=100 * n,
            log_likelihood=total,
            word_perplexity=estimate,
            byte_perplexity=estimate,
            token_perplexity=estimate,
            bits_per_byte=estimate,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        ),
        **{
            "prefix": "EOS (id 2)",
            "context_length": 512,
            "items_sha256": "f" * 64,
            "source": SOURCE,
            "samples_file": f"samples-{profile.split('/')[0]}-pubmed-a.jsonl",
            **changes,
        },
    )
    samples = [
        {"id": f"d{row}", "log_likelihood": value, "words": 20, "tokens": 25, "utf8_bytes": 100}
        for row, value in enumerate(log_likelihoods)
    ]
    return cell, samples


def write_run(
    folder: Path,
    questions: Sequence[tuple[QuestionCell, Sequence[Mapping[str, Any]]]] = (),
    texts: Sequence[tuple[TextCell, Sequence[Mapping[str, Any]]]] = (),
    *,
    seed: int = 42,
    **model: Any,
) -> Path:
    """Write a results folder; each folder's name is also its weights, unless `weights_sha256` says otherwise."""
    facts = {
        "source": f"models/{folder.name}",
        "revision": None,
        "weights_sha256": hashlib.sha256(folder.name.encode()).hexdigest(),
        "architecture": "LlamaForCausalLM",
        "parameters": 1,
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
        "tokenizer_kind": "fast",
        "tokenizer_fingerprint": "a" * 64,
        "tokenizer_adds_bos": True,
        "sharing": "shared",
    }
    results = Results(
        created="2026-01-01T00:00:00+00:00",
        model=ModelFacts(**{**facts, **model}),
        seed=seed,
        settings={},
        versions={},
        questions=tuple(cell for cell, _ in questions),
        texts=tuple(cell for cell, _ in texts),
    )
    samples = {cell.samples_file: list(rows) for cell, rows in (*questions, *texts)}
    write_results(folder, json.loads(results.model_dump_json()), samples, overwrite=False)
    return folder
