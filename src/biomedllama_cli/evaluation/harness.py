"""Score questions and documents through lm-evaluation-harness; no other module imports lm_eval.

The harness gets rows with every prompt written out and this project's own YAML tasks, named `biomedllama_...`
so that none of its stock tasks is replaced. What the published protocol fixes is fixed here: no BOS, context
and continuation encoded together and split at the length of the encoded context, the left end cut from what
is too long, running text conditioned on EOS.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from lm_eval.evaluator import evaluate as run_harness
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel

from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.evaluation.jobs import QuestionJob, TextJob
from biomedllama_cli.models.tokenizer import Tokenizer

TASK_FOLDER = Path(__file__).resolve().parent / "harness_tasks"
LOGITS_BUDGET_BYTES = 4 * 2**30
"""Rows per batch are lowered until one batch of fp32 logits (rows x tokens x vocabulary) fits in this."""

_TEXT_SCHEMA = pa.schema({"id": pa.string(), "text": pa.large_string()})
_QUESTION_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "prompt": pa.large_string(),
        "options": pa.list_(pa.large_string()),
        "answer_index": pa.int64(),
    }
)


@dataclass(frozen=True)
class Scores:
    """What the model gave to one job.

    Attributes:
        log_likelihoods: per row, one natural logarithm per option (questions) or a single one (documents).
        truncated: scored inputs that lost their left end because they are longer than the context.
    """

    log_likelihoods: tuple[tuple[float, ...], ...]
    truncated: int


def harness_task_name(task: str) -> str:
    """Return the name a task has inside the harness.

    >>> harness_task_name("medqa-5")
    'biomedllama_medqa_5'
    """
    return "biomedllama_" + task.replace("-", "_")


class ProtocolModel(HFLM):  # type: ignore[misc]
    """The harness's transformers model with this project's tokenizer: plain ids, never a BOS.

    Args:
        model: a loaded causal language model, on its device.
        tokenizer: the tokenizer of that model.
        context_length: longest input (in tokens).
        batch_size: rows scored at once.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, *, context_length: int, batch_size: int
    ) -> None:
        self._protocol_tokenizer = tokenizer
        self._asked_batch_size = batch_size
        self.truncated = 0
        self.on_rows: Callable[[int], None] = lambda rows: None
        with _quiet_harness():
            super().__init__(
                pretrained=model,
                backend="causal",
                max_length=context_length,
                batch_size=batch_size,
                add_bos_token=False,
                prefix_token_id=tokenizer.eos_id,
                # The log-softmax of fp16 logits is taken in fp32: sums over long options keep their digits.
                softmax_dtype=torch.float32,
            )

    def _create_tokenizer(self, *_: Any, **__: Any) -> None:
        # All the harness needs of a tokenizer besides `tok_encode`, which is ours below.
        vocabulary_size = self._protocol_tokenizer.vocabulary_size
        self.tokenizer = SimpleNamespace(pad_token_id=0, vocab_size=vocabulary_size)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **_: Any,
    ) -> list[int]:
        """Return the ids of a text without any special token, whatever the harness asks for."""
        ids = self._protocol_tokenizer.encode(string)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """Score options; without the harness's own bars, since `on_rows` tells how far it is."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """Score running text; without the harness's own bars."""
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def _model_call(self, inps: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        logits = super()._model_call(inps, *arguments, **options)
        self.on_rows(len(inps))
        return logits

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if not requests:
            return []
        longest = 0
        for texts, context_ids, continuation_ids in requests:
            tokens = len(context_ids) + len(continuation_ids)
            longest = max(longest, min(tokens - 1, self.max_length))
            if texts is None:  # a window of running text, always of the right length
                continue
            self.truncated += tokens > self.max_length + 1
            if not 0 < len(continuation_ids) <= self.max_length:
                raise DataError(
                    f"option {texts[1]!r} has {len(continuation_ids)} tokens of its own after its question; "
                    f"it must have 1 to {self.max_length} (context_length)"
                )
        row_bytes = longest * self.model.get_input_embeddings().weight.shape[0] * 4
        self.batch_size_per_gpu = max(1, min(self._asked_batch_size, LOGITS_BUDGET_BYTES // row_bytes))
        answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, True, override_bs)
        return answers


def score_job(
    model: ProtocolModel, job: QuestionJob | TextJob, on_rows: Callable[[int], None] = lambda rows: None
) -> Scores:
    """Score all rows of one job.

    Args:
        model: the model.
        job: what to score.
        on_rows: told after each batch how many inputs it held.

    Raises:
        DataError: an option has no token of its own, or more than the context holds.
        ModelError: the model answers with something that is no number.
    """
    if isinstance(job, QuestionJob):
        for row in job.rows:
            if "" in row.options:
                raise DataError(f"{job.task}: item {row.id} has an empty option; every option must be text")
    model.truncated, model.on_rows = 0, on_rows
    with tempfile.TemporaryDirectory(prefix="biomedllama-evaluate-") as folder, _quiet_harness():
        write_harness_task(job, Path(folder))
        manager = TaskManager(include_path=folder, include_defaults=False)
        name = harness_task_name(job.task)
        outcome = run_harness(model, manager.load([name]), bootstrap_iters=0, log_samples=True)
        samples = sorted(outcome["samples"][name], key=lambda sample: sample["doc_id"])
    log_likelihoods = tuple(_read_sample(sample, job, index) for index, sample in enumerate(samples))
    assert len(log_likelihoods) == len(job.rows)
    return Scores(log_likelihoods, model.truncated)


def write_harness_task(job: QuestionJob | TextJob, folder: Path) -> None:
    """Write a job as a parquet file and a YAML task beside it, ready for `lm_eval --include_path FOLDER`.

    The YAML includes this project's task of that name and adds where its rows are.
    """
    name = harness_task_name(job.task)
    data_file = folder / f"{name}.parquet"
    # Not JSON: its reader turns a column of ISO dates into timestamps, and options may be dates.
    schema = _TEXT_SCHEMA if isinstance(job, TextJob) else _QUESTION_SCHEMA
    pq.write_table(pa.Table.from_pylist([vars(row) for row in job.rows], schema=schema), data_file)
    task = {
        "include": str(TASK_FOLDER / f"{name}.yaml"),
        "task": name,
        "dataset_kwargs": {"data_files": {"test": str(data_file)}, "cache_dir": str(folder / "cache")},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def _read_sample(sample: dict[str, Any], job: QuestionJob | TextJob, index: int) -> tuple[float, ...]:
    """Return the log-likelihoods of one row, having checked that exactly our texts were scored."""
    expected: list[tuple[str, ...]]
    if isinstance(job, TextJob):
        expected = [(job.rows[index].text,)]
        values = [float(response) for (response,) in sample["resps"]]
    else:
        row = job.rows[index]
        expected = [(row.prompt, job.option_prefix + option) for option in row.options]
        values = [float(response[0]) for (response,) in sample["resps"]]
    assert [tuple(arguments) for arguments in sample["arguments"]] == expected, (
        "the harness changed the scored texts"
    )
    if not all(math.isfinite(value) for value in values):
        raise ModelError(
            f"{job.task}: the model's log-likelihoods for item {job.rows[index].id} are {values}; "
            "they must be finite",
            "fp16 overflows in models trained in bf16: try --dtype bf16 or --dtype fp32.",
        )
    return tuple(values)


@contextlib.contextmanager
def _quiet_harness() -> Iterator[None]:
    """Keep the harness and `datasets` off stdout, and their running commentary off the log."""
    loggers: Sequence[logging.Logger] = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if had_bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
