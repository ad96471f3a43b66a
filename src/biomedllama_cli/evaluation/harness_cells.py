"""From lm-eval's results to the records every other profile is reported in."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from biomedllama_cli.evaluation import statistics
from biomedllama_cli.evaluation.baselines import majority_accuracy, random_accuracy
from biomedllama_cli.evaluation.cells import Accuracy, CellFacts, QuestionCell, QuestionMetrics, SourceFacts
from biomedllama_cli.tasks.records import file_sha256

if TYPE_CHECKING:
    from biomedllama_cli.evaluation.harness_profile import HarnessResult

CLOSE_MARGIN = 2e-3
"""Two best options closer than this (in nats) may change places with the rounding of the arithmetic."""

# The question's own words in the data sets that the named tasks read; elsewhere the whole prompt stands.
_QUESTION_FIELDS = ("sent1", "QUESTION", "qtext", "question")
_LENGTHS: dict[str, Callable[[str], int]] = {"acc_norm": len, "acc_bytes": lambda text: len(text.encode())}


def build_cell(
    result: HarnessResult, profile: str, *, bos: str, context_length: int
) -> tuple[QuestionCell, list[dict[str, Any]]]:
    """Return the report's cell of a task and one sample record per question.

    The scores bear lm-eval's names without the filter (`acc`, `acc_norm`, `exact_match`).

    Args:
        result: of a task of choices or of generated answers that are right or wrong.
        profile: with its version.
        bos: `none`, or `BOS (id 1)`.
        context_length: longest input (in tokens).

    Raises:
        ValueError: the task has no answers that are right or wrong; `is_question_task` tells.
    """
    if not is_question_task(result):
        raise ValueError(f"{result.task} has no answers that are right or wrong")
    chooses = result.output_type == "multiple_choice"
    samples = [_read_choice(result, one) if chooses else _read_text(one) for one in result.samples]
    metrics = _build_metrics(result, samples) if chooses else _build_text_metrics(result, samples)
    prompts = [_contexts(one) for one in result.samples]
    facts = CellFacts(
        prompt=result.prompt | {"lm_eval_version": result.version, "groups": list(result.groups)},
        bos=bos,
        context_length=context_length,
        shots=result.shots,
        draw_rule=f"lm-eval's sampler for {result.task}" if result.shots else None,
        draws_sha256=hashlib.sha256(json.dumps(prompts, ensure_ascii=False).encode()).hexdigest(),
        items_sha256=result.items_sha256,
        pool_sha256=None if result.train_file is None else file_sha256(result.train_file),
        source=_describe_source(result),
        pool_source=None,
    )
    name = (
        result.asked if len(result.asked.split(":")) == 1 and not result.groups else f"lm-eval:{result.task}"
    )
    cell = QuestionCell(
        profile=profile,
        task=name,
        method="lm-eval",
        metrics=metrics,
        facts=facts,
        samples_file=f"samples-harness-{result.task}.jsonl",
    )
    return cell, samples


def is_question_task(result: HarnessResult) -> bool:
    """Tell whether every sample of a task is right or wrong: one of several options, or a matched text."""
    key = {"multiple_choice": "acc", "generate_until": "exact_match"}.get(result.output_type)
    return key is not None and all(sample.get(key) in (0, 1) for sample in result.samples)


def _contexts(sample: dict[str, Any]) -> list[Any]:
    return [arguments[0] for arguments in sample["arguments"]]


def _describe_source(result: HarnessResult) -> SourceFacts:
    if result.file is None:
        return SourceFacts(kind="lm-eval", location=result.dataset, rows=result.n_all, sha256=None)
    digest = file_sha256(result.file)
    return SourceFacts(kind="file", location=str(result.file), rows=result.n_all, sha256=digest)


def _frame(sample: dict[str, Any], options: Sequence[str], answer_index: int) -> dict[str, Any]:
    document = sample["doc"]
    question = next(
        (document[name] for name in _QUESTION_FIELDS if isinstance(document.get(name), str)), None
    )
    return {
        "id": str(document.get("id") or sample["doc_id"]),
        "question": question or str(sample["arguments"][0][0]),
        "options": list(options),
        "answer_index": answer_index,
        "example_ids": [],
    }


def _groups_of(document: dict[str, Any]) -> dict[str, str]:
    """Return what an item belongs to: as our readers found it, or MedMCQA's subject on the hub."""
    if isinstance(document.get("groups"), str):
        return dict(json.loads(document["groups"]))
    subject = document.get("subject_name")
    return {"subject": subject} if isinstance(subject, str) else {}


def _read_choice(result: HarnessResult, sample: dict[str, Any]) -> dict[str, Any]:
    delimiter = str(result.prompt.get("target_delimiter", " "))
    arguments = [tuple(one[:2]) for one in sample["arguments"]]
    values = [float(response[0][0]) for response in sample["resps"]]
    # acc_mutual_info appends the options without their question; they are no options of their own.
    count = sum(context == arguments[0][0] for context, _ in arguments)
    count = count if count < len(values) and arguments[-1][0] == "" else len(values)
    options = [text.removeprefix(delimiter) for _, text in arguments[:count]]
    values = values[:count]
    likelihoods = [result.likelihoods[context, text] for context, text in arguments[:count]]
    target = sample["target"][0] if isinstance(sample["target"], list) else sample["target"]
    answer = options.index(target) if target in options else int(target)
    predictions = {"acc": statistics.choose_option(values)}
    for name, length in _LENGTHS.items():
        if name in sample:
            predictions[name] = int(
                np.argmax([v / max(length(o), 1) for v, o in zip(values, options, strict=True)])
            )
    return _frame(sample, options, answer) | {
        "log_likelihoods": values,
        "prediction": predictions["acc"],
        "correct": sample["acc"] == 1,
        "tokens": [one.tokens for one in likelihoods],
        "scores": predictions,
        "groups": _groups_of(sample["doc"]),
        "cluster": None,
    }


def _read_text(sample: dict[str, Any]) -> dict[str, Any]:
    document = sample["doc"]
    options: list[str] = next(
        (document[name] for name in ("options", "choices") if isinstance(document.get(name), list)), []
    )
    target = sample["target"]
    letter = isinstance(target, str) and len(target) == 1 and target.isupper()
    answer = ord(target) - ord("A") if letter else 0
    return _frame(sample, options, answer) | {
        "log_likelihoods": [],
        "prediction": None,
        "correct": sample["exact_match"] == 1,
        "tokens": [],
        "scores": {},
        "groups": _groups_of(document),
        "cluster": None,
        "text": str(sample["resps"][0][0]),
        "parsed": str(sample["filtered_resps"][0]),
    }


def _build_metrics(result: HarnessResult, samples: Sequence[dict[str, Any]]) -> QuestionMetrics:
    answers = [sample["answer_index"] for sample in samples]
    predictions = [sample["prediction"] for sample in samples]
    names = ["acc", *(name for name in _LENGTHS if f"{name},none" in result.metrics)]
    scores = {name: statistics.accuracy([raw[name] == 1 for raw in result.samples]) for name in names}
    labels = _fixed_labels(samples)
    counted = Counter(predictions), Counter(answers)
    named = [{label: counts[i] for i, label in enumerate(labels)} for counts in counted] if labels else None
    truncated = sum(
        result.likelihoods[tuple(arguments[:2])].truncated
        for raw in result.samples
        for arguments in raw["arguments"]
    )
    return QuestionMetrics(
        n=result.n,
        n_all=result.n_all,
        headline="acc",
        scores=scores,
        random=random_accuracy([len(sample["options"]) for sample in samples]),
        majority=majority_accuracy(answers),
        macro_f1=statistics.macro_f1(answers, predictions, len(labels)) if labels else None,
        predicted_labels=named and named[0],
        answer_labels=named and named[1],
        groups=_accuracies_by_group(samples),
        truncated_inputs=truncated,
        smallest_margin_items=tuple(sample["id"] for sample in samples if _margin(sample) < CLOSE_MARGIN),
    )


def _build_text_metrics(result: HarnessResult, samples: Sequence[dict[str, Any]]) -> QuestionMetrics:
    counts = [len(sample["options"]) for sample in samples]
    return QuestionMetrics(
        n=result.n,
        n_all=result.n_all,
        headline="exact_match",
        scores={"exact_match": statistics.accuracy([sample["correct"] for sample in samples])},
        random=random_accuracy(counts) if all(counts) else 0.0,
        groups=_accuracies_by_group(samples),
    )


def _fixed_labels(samples: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return the options where they mean the same in every question; letters name only their place."""
    options = {tuple(sample["options"]) for sample in samples}
    labels = options.pop() if len(options) == 1 else ()
    return () if all(len(label) == 1 for label in labels) else labels


def _margin(sample: dict[str, Any]) -> float:
    best, second = sorted(sample["log_likelihoods"], reverse=True)[:2]
    return float(best - second)


def _accuracies_by_group(samples: Sequence[dict[str, Any]]) -> dict[str, dict[str, Accuracy]]:
    found: dict[str, dict[str, list[bool]]] = {}
    for sample in samples:
        for kind, value in sample["groups"].items():
            found.setdefault(kind, {}).setdefault(value, []).append(sample["correct"])
    return {
        kind: {value: statistics.accuracy(correct) for value, correct in sorted(values.items())}
        for kind, values in sorted(found.items())
    }
