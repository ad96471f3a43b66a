"""What `evaluate` hands back: everything needed to repeat it, and its summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from biomedllama_cli.evaluation.results import Accuracy, Estimate, Frozen, QuestionMetrics, TextMetrics
from biomedllama_cli.tasks.prompts import EXAMPLE_SEPARATOR, PromptFormat


class ModelFacts(Frozen):
    """The scored model; hashes are SHA-256."""

    source: str
    revision: str | None
    weights_sha256: str | None
    architecture: str
    parameters: int
    dtype: str
    device: str
    attention: str
    tokenizer_kind: str
    tokenizer_fingerprint: str
    tokenizer_adds_bos: bool


class ProtocolFacts(Frozen):
    """What holds for every task; lengths in tokens."""

    name: str = "paper"
    scorer: str = "lm-eval"
    bos: str = "none"
    truncation: str = "left"
    log_softmax_dtype: str = "fp32"
    seed: int
    context_length: int
    asked_context_length: int
    rolling_prefix_id: int


class SourceFacts(Frozen):
    """Where items came from; `sha256` is of the file."""

    kind: str
    location: str
    rows: int
    sha256: str | None


class QuestionReport(Frozen):
    """One task of questions: its numbers and what they depend on."""

    metrics: QuestionMetrics
    prompt: dict[str, Any]
    shots: int
    draws_sha256: str
    draw_rule: str | None
    items_sha256: str
    pool_sha256: str | None
    source: SourceFacts
    pool_source: SourceFacts | None


class TextReport(Frozen):
    """One task of running text: its numbers and what they depend on."""

    metrics: TextMetrics
    items_sha256: str
    source: SourceFacts


class EvaluateReport(Frozen):
    """An evaluation, or with `dry_run` the plan of one (`planned`: place and records of each task)."""

    schema_version: str = "biomedllama.evaluate/1"
    dry_run: bool
    created: str
    model_source: str
    output_dir: str
    settings: dict[str, Any]
    versions: dict[str, str]
    planned: dict[str, tuple[str, int | None]] | None = None
    model: ModelFacts | None = None
    protocol: ProtocolFacts | None = None
    questions: dict[str, QuestionReport] = Field(default_factory=dict)
    texts: dict[str, TextReport] = Field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the summary as plain lines of text."""
        if self.planned is not None:
            return _plan_lines(self)
        assert self.model is not None
        assert self.protocol is not None
        model, protocol = self.model, self.protocol
        lines = [
            f"Model: {model.source} ({model.architecture}, {model.parameters:,} parameters, "
            f"{model.dtype} on {model.device})",
            f"Protocol: {protocol.name}; BOS: {protocol.bos}; context {protocol.context_length} tokens; "
            f"tokenizer: {model.tokenizer_kind}; seed {protocol.seed}",
        ]
        if protocol.context_length < protocol.asked_context_length:
            lines.append(f"  (context lowered from {protocol.asked_context_length} to the model's own limit)")
        if self.questions:
            lines += ["", *_question_table(self.questions)]
        if self.texts:
            lines += ["", *_text_table(self.texts)]
        return [*lines, "", f"Results: {self.output_dir}"]


def describe_prompt(prompt: PromptFormat) -> dict[str, Any]:
    """Return a prompt's wording as data for the report."""
    return {**vars(prompt), "example_separator": EXAMPLE_SEPARATOR}


def _plan_lines(report: EvaluateReport) -> list[str]:
    assert report.planned is not None
    lines = [f"Would score {report.model_source}; nothing is loaded or written."]
    for task, (place, records) in report.planned.items():
        count = "not looked up" if records is None else f"{records:,} records"
        lines.append(f"  {task}: {place} ({count})")
    return [*lines, f"Results would go to {report.output_dir}"]


def _question_table(reports: dict[str, QuestionReport]) -> list[str]:
    rows = [["task", "shots", "n", "acc", "95 % interval", "acc_norm", "95 % interval", "random"]]
    notes: list[str] = []
    for name, report in reports.items():
        metrics = report.metrics
        rows.append(
            [
                name,
                str(report.shots),
                _count(metrics.n, metrics.n_all),
                *_accuracy_cells(metrics.acc),
                *(_accuracy_cells(metrics.acc_norm) if metrics.acc_norm else ["-", "-"]),
                f"{metrics.random:.4f}",
            ]
        )
        notes += _question_notes(name, report)
    return [*_align(rows), *notes]


def _question_notes(name: str, report: QuestionReport) -> list[str]:
    metrics, notes = report.metrics, []
    if metrics.predicted_labels and metrics.answer_labels:
        predicted = ", ".join(f"{label} {count}" for label, count in metrics.predicted_labels.items())
        right = ", ".join(f"{label} {count}" for label, count in metrics.answer_labels.items())
        notes.append(
            f"{name}: always the commonest answer scores {metrics.majority:.4f}; "
            f"macro-F1 {metrics.macro_f1:.4f}; predicted {predicted} (answers: {right})"
        )
    if report.draw_rule:
        notes.append(f"{name}: few-shot examples drawn from {report.draw_rule}")
    if metrics.truncated_inputs:
        notes.append(f"{name}: {metrics.truncated_inputs} inputs lost their left end to the context length")
    return notes


def _text_table(reports: dict[str, TextReport]) -> list[str]:
    rows = [
        ["task", "documents", "tokens", "word perplexity", "95 % interval", "bits per byte", "95 % interval"]
    ]
    for name, report in reports.items():
        metrics = report.metrics
        rows.append(
            [
                name,
                _count(metrics.n, metrics.n_all),
                f"{metrics.tokens:,}",
                *_estimate_cells(metrics.word_perplexity),
                *_estimate_cells(metrics.bits_per_byte),
            ]
        )
    return _align(rows)


def _count(n: int, n_all: int) -> str:
    return f"{n:,}" if n == n_all else f"{n:,} of {n_all:,}"


def _accuracy_cells(accuracy: Accuracy) -> list[str]:
    return [f"{accuracy.value:.4f}", f"{accuracy.interval[0]:.4f}-{accuracy.interval[1]:.4f}"]


def _estimate_cells(estimate: Estimate) -> list[str]:
    interval = estimate.interval
    return [f"{estimate.value:.4f}", "-" if interval is None else f"{interval[0]:.4f}-{interval[1]:.4f}"]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
