"""The profile `harness`: lm-eval's current tasks with its own prompts and metrics, scored with shared prefixes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval.evaluator import evaluate

from biomedllama_cli.evaluation.harness import SharedPrefixLM
from biomedllama_cli.evaluation.harness_quiet import quiet_harness
from biomedllama_cli.evaluation.harness_stock import load_stock_tasks, stock_names
from biomedllama_cli.evaluation.jobs import Likelihood

DRAW_SEED = 1234
"""lm-eval's own seed of few-shot draws."""


def profile_name() -> str:
    """Return the profile with its version, which is lm-eval's: `harness/0.4.13`."""
    return f"harness/{version('lm_eval')}"


@dataclass(frozen=True)
class HarnessResult:
    """What lm-eval gives for one of its tasks.

    Attributes:
        asked: the name it was asked for by: `medqa`, `multimedqa`, `lm-eval:headqa_en`.
        task: lm-eval's name of it.
        groups: of lm-eval that it was scored as a member of.
        version: of the task, as lm-eval has it.
        output_type: `multiple_choice`, `loglikelihood_rolling`, `generate_until`, ...
        metrics: by lm-eval's names, such as `acc,none`.
        n: documents scored.
        n_all: documents of the whole task.
        shots: few-shot examples per document.
        dataset: on the hub, with its configuration, or the local file.
        file: the local file the rows came from, if any.
        train_file: likewise of the few-shot examples.
        prompt: the wording as data: lm-eval's configuration of the task, its functions as source.
        items_sha256: over all documents of the task.
        samples: lm-eval's records: doc, arguments, resps, filtered_resps, target and metrics per document.
        likelihoods: by (context, continuation), with their tokens.
    """

    asked: str
    task: str
    groups: tuple[str, ...]
    version: str
    output_type: str
    metrics: dict[str, float]
    n: int
    n_all: int
    shots: int
    dataset: str
    file: Path | None
    train_file: Path | None
    prompt: dict[str, Any]
    items_sha256: str
    samples: tuple[dict[str, Any], ...]
    likelihoods: dict[tuple[str, str], Likelihood] = field(repr=False)


@dataclass(frozen=True)
class HarnessRun:
    """The results of the tasks, and what lm-eval aggregates over its groups, by group and metric."""

    tasks: tuple[HarnessResult, ...]
    groups: dict[str, dict[str, float]]


def run_harness_tasks(
    lm: SharedPrefixLM,
    names: Sequence[str],
    *,
    shots: int | None = None,
    limit: int | None = None,
    samples: Mapping[str, Sequence[int]] | None = None,
    local_rows: Mapping[str, Path] | None = None,
    seed: int = DRAW_SEED,
) -> HarnessRun:
    """Run lm-eval's tasks as it has them: prompts, few-shot draws, metrics and aggregation are its own.

    Args:
        lm: the model.
        names: ours (`harness_stock.NAMES`), or any of lm-eval's, with or without `lm-eval:`.
        shots: few-shot examples; None for what each task says, and 0 where it says nothing.
        limit: documents per task, the first ones; None for all.
        samples: instead of a limit, numbers of documents by lm-eval's name of the task.
        local_rows: files by `TASK` and `TASK.train`, read instead of the hub.
        seed: of lm-eval's few-shot draws.

    Raises:
        SettingsError: lm-eval has no such task.
        DataError: a local file is broken or does not fit.
        UnavailableError: the hub is needed and cannot be reached.
    """
    results: list[HarnessResult] = []
    groups: dict[str, dict[str, float]] = {}
    for name in names:
        # The loaded rows are mapped from files in the folder: it lives until the task is done.
        with tempfile.TemporaryDirectory(prefix="biomedllama-harness-") as folder, quiet_harness():
            loaded = load_stock_tasks(name, shots=shots, local_rows=local_rows or {}, folder=Path(folder))
            for task in loaded["tasks"].values():
                _set_shots(task, shots, seed)
            lm.record = {}
            chosen = samples and {task: list(ids) for task, ids in samples.items() if task in loaded["tasks"]}
            outcome = evaluate(lm, loaded, limit=limit, samples=chosen, bootstrap_iters=0, log_samples=True)
            found, lm.record = lm.record, None
            results += [
                _build_result(name, task, outcome, found, local_rows or {})
                for task in loaded["tasks"].values()
            ]
            groups |= {group: _numbers(metrics) for group, metrics in outcome.get("groups", {}).items()}
    return HarnessRun(tuple(results), groups)


def _set_shots(task: Any, shots: int | None, seed: int) -> None:
    """Do what lm-eval's command line does: a task that says 0 stays at 0."""
    own = task.get_config("num_fewshot")
    if own is None:
        task.set_config(key="num_fewshot", value=shots or 0)
    elif shots is not None and own != 0:
        task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=seed)


def _build_result(
    asked: str,
    task: Any,
    outcome: Mapping[str, Any],
    likelihoods: dict[tuple[str, str], Likelihood],
    local_rows: Mapping[str, Path],
) -> HarnessResult:
    name = task.task_name
    config = task.dump_config()
    ours = next((own for own in local_rows if stock_names(own) == (name,)), None)
    counts = outcome["n-samples"][name]
    dataset = " ".join(str(part) for part in (task.DATASET_PATH, task.DATASET_NAME) if part)
    return HarnessResult(
        asked=asked,
        task=name,
        groups=tuple(group for group, members in outcome["group_subtasks"].items() if name in members),
        version=str(task.VERSION),
        output_type=task.OUTPUT_TYPE,
        metrics=_numbers(outcome["results"][name]),
        n=counts["effective"],
        n_all=counts["original"],
        shots=outcome["n-shot"].get(name, 0),
        dataset=str(local_rows[ours]) if ours else dataset,
        file=local_rows[ours] if ours else None,
        train_file=local_rows.get(f"{ours}.train"),
        prompt=_describe_prompt(config),
        items_sha256=_hash_documents(task.eval_docs),
        samples=tuple(
            sorted(outcome["samples"][name], key=lambda sample: (sample["filter"], sample["doc_id"]))
        ),
        likelihoods=likelihoods,
    )


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of lm-eval's table, whose names hold a comma; errors it did not estimate are left out."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if "," in name and isinstance(value, int | float) and not isinstance(value, bool)
    }


_WORDING = (
    "task",
    "description",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "target_delimiter",
    "fewshot_delimiter",
    "generation_kwargs",
    "output_type",
)


def _describe_prompt(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what fixes the wording, as JSON: functions stand there by their source, or else by their name."""
    kept = {name: config[name] for name in _WORDING if config.get(name) not in (None, "")}
    fewshot = config.get("fewshot_config") or {}
    kept["fewshot_sampler"] = fewshot.get("sampler")
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=_name_of))
    return plain


def _name_of(value: Any) -> str:
    """Return the name of a function, which has no address in it that changes from run to run."""
    function = getattr(value, "func", value)
    arguments = [*getattr(value, "args", ()), *getattr(value, "keywords", {}).items()]
    return f"{getattr(function, '__qualname__', type(value).__name__)}{arguments or ''}"


def _hash_documents(documents: Any) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(document, sort_keys=True, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()
