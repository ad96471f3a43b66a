"""The two arms of benchmarks/shared_prefix.py, each run in a process of its own: lm-eval's model and ours."""

from __future__ import annotations

import hashlib
import json
import logging
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from biomedllama_cli.evaluation.harness import SharedPrefixLM
from biomedllama_cli.evaluation.harness_quiet import quiet_harness
from biomedllama_cli.models.tokenizer import load_tokenizer
from shared_prefix_cells import CELLS, Place, take_questions

CONTEXT_LENGTH = 2048
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ARMS = {"lm-eval": HFLM, "ours": SharedPrefixLM}


@dataclass(frozen=True)
class Scoring:
    """What is scored, with what: everything an arm's process needs to know."""

    model: Path
    place: Place
    device: str
    dtype: str
    cell: str
    questions: int
    batch_size: int = 1


@dataclass(frozen=True)
class Outcome:
    """What an arm found: seconds and bytes of memory at the peak, and its numbers per question."""

    seconds: float
    peak_bytes: int
    texts_sha256: str
    values: list[list[float]] = field(repr=False)


def load_arm(arm: str, scoring: Scoring, *, protocol: bool) -> Any:
    """Return an arm's model."""
    options: dict[str, Any] = {}
    if protocol:
        eos_id = load_tokenizer(str(scoring.model)).eos_id
        options = {"add_bos_token": False, "prefix_token_id": eos_id}
    with quiet_harness():
        return ARMS[arm](
            pretrained=str(scoring.model),
            backend="causal",
            device=scoring.device,
            dtype=DTYPES[scoring.dtype],
            batch_size=scoring.batch_size,
            max_length=CONTEXT_LENGTH,
            **options,
        )


def score(lm: Any, requests: list[Instance]) -> tuple[float, list[float]]:
    """Return the seconds of scoring and the log-likelihoods."""
    rolling = requests[0].request_type == "loglikelihood_rolling"
    with quiet_harness():
        start = time.monotonic()
        answers = (lm.loglikelihood_rolling if rolling else lm.loglikelihood)(requests, disable_tqdm=True)
        seconds = time.monotonic() - start
    return seconds, [answer if rolling else answer[0] for answer in answers]


def run_arm(arm: str, scoring: Scoring) -> Outcome:
    """Score a cell; loading and a first question, which fills caches, are not counted."""
    logging.getLogger("tqdm").setLevel(logging.ERROR)
    cell = CELLS[scoring.cell]
    requests = cell.build(scoring.place, scoring.questions)
    lm = load_arm(arm, scoring, protocol=cell.protocol)
    _warm_up(lm, requests)
    if scoring.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    seconds, answers = score(lm, requests)
    if scoring.device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    else:
        peak = torch.cuda.max_memory_allocated()
    values: dict[tuple[Any, Any], list[float]] = {}
    for request, answer in zip(requests, answers, strict=True):
        values.setdefault((request.task_name, request.doc_id), []).append(answer)
    texts = json.dumps([request.args for request in requests], ensure_ascii=False)
    return Outcome(seconds, peak, hashlib.sha256(texts.encode()).hexdigest(), list(values.values()))


def search_batch_size(scoring: Scoring, sizes: list[int]) -> tuple[int, dict[int, float]]:
    """Return the batch size lm-eval is fastest with on the cell's first questions, and the seconds of each."""
    cell = CELLS[scoring.cell]
    requests = cell.build(scoring.place, scoring.questions)
    few = take_questions(requests, cell.searched)
    lm = load_arm("lm-eval", scoring, protocol=cell.protocol)
    _warm_up(lm, requests)
    seconds = {}
    for size in sizes:
        lm.batch_size_per_gpu = size
        seconds[size], _ = score(lm, few)
    return min(seconds, key=lambda size: seconds[size]), seconds


def _warm_up(lm: Any, requests: list[Instance]) -> None:
    """Score the first question, or the beginning of the first document, which must not take long."""
    first = take_questions(requests, 1)
    if first[0].request_type == "loglikelihood_rolling":
        first = [Instance("loglikelihood_rolling", {}, (first[0].args[0][:500],), 0)]
    score(lm, first)
