"""Literal texts as tasks of lm-eval, so that plain lm-eval scores exactly what this project scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from biomedllama_cli.evaluation.harness_quiet import quiet_harness


@dataclass(frozen=True)
class Row:
    """A prompt, what is scored after it (every byte written out), and the index of the right continuation."""

    id: str
    context: str
    continuations: tuple[str, ...]
    answer_index: int = 0


def build_choice_task(
    name: str, rows: Sequence[Row], metrics: Sequence[str] = ("acc", "acc_norm")
) -> ConfigurableTask:
    """Return a multiple-choice task whose prompts and continuations are the rows'."""
    return _build_task(
        name,
        [asdict(row) for row in rows],
        output_type="multiple_choice",
        doc_to_text="context",
        doc_to_choice="continuations",
        doc_to_target="answer_index",
        target_delimiter="",
        metric_list=[
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics
        ],
    )


def build_text_task(name: str, texts: Iterable[str]) -> ConfigurableTask:
    """Return a task of running text."""
    return _build_task(
        name,
        [{"text": text} for text in texts],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="text",
    )


def _build_task(name: str, documents: list[dict[str, Any]], **config: Any) -> ConfigurableTask:
    dataset = datasets.Dataset.from_list(documents)
    own = {
        "task": name,
        "custom_dataset": lambda **_: {"test": dataset},
        "test_split": "test",
        "num_fewshot": 0,
    }
    with quiet_harness():
        return ConfigurableTask(config=own | config)


def run_tasks(lm: Any, *tasks: Any) -> dict[str, list[dict[str, Any]]]:
    """Return lm-eval's samples of each task by its name, in the order of its documents."""
    by_name: Mapping[str, Any] = {task.task_name: task for task in tasks}
    outcome = evaluate(lm, {"tasks": by_name}, bootstrap_iters=0, log_samples=True)
    return {name: sorted(outcome["samples"][name], key=lambda sample: sample["doc_id"]) for name in by_name}


def log_likelihoods(sample: Mapping[str, Any]) -> list[float]:
    """Return the numbers of a sample: one per continuation, or that of the running text."""
    return [float(one[0][0] if isinstance(one[0], tuple | list) else one[0]) for one in sample["resps"]]
