"""All numbers of evaluations in one long table, for CSV: a row per number, with everything that tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from biomedllama_cli.evaluation.cells import Accuracy, Estimate, QuestionCell, Results, TextCell
from biomedllama_cli.report.tables import Cell, Column, Table

_GENERATION = ("max_new_tokens", "temperature", "top_p", "chains", "backend", "template")
_COLUMNS = (
    Column("model"),
    Column("revision"),
    Column("weights_sha256"),
    Column("tokenizer_fingerprint"),
    Column("dtype"),
    Column("created"),
    Column("program_version"),
    Column("seed", "integer"),
    Column("profile"),
    Column("task"),
    Column("method"),
    Column("shots", "integer"),
    Column("bos"),
    Column("context_length", "integer"),
    Column("items_sha256"),
    Column("source_sha256"),
    Column("draws_sha256"),
    *(Column(name) for name in _GENERATION),
    Column("n_all", "integer"),
    Column("headline"),
    Column("quantity"),
    Column("group_kind"),
    Column("group"),
    Column("value", "number"),
    Column("low", "number"),
    Column("high", "number"),
    Column("correct", "integer"),
    Column("n", "integer"),
    Column("clusters", "integer"),
)
Record = tuple[Cell, ...]
_Number = tuple[str, str | None, str | None, float | Accuracy | Estimate | None]
"""Quantity, kind and name of the group, and what it is."""


def build_records(results: Sequence[Results]) -> Table:
    """Return one row per number: scores, baselines, groups, counts of labels, permutations, votes, texts."""
    rows: list[Record] = []
    for one in results:
        facts = one.model
        model: Record = (
            *(facts.source, facts.revision, facts.weights_sha256, facts.tokenizer_fingerprint, facts.dtype),
            *(one.created, one.versions.get("biomedllama-cli"), one.seed),
        )
        for question in one.questions:
            asked = question.facts
            place: Record = (
                *(question.profile, question.task, question.method, asked.shots, asked.bos),
                *(asked.context_length, asked.items_sha256, asked.source.sha256, asked.draws_sha256),
                *((asked.generation or {}).get(name) for name in _GENERATION),
                *(question.metrics.n_all, question.metrics.headline),
            )
            rows += [(*model, *place, *_record(number)) for number in _question_numbers(question)]
        for text in one.texts:
            place = (
                *(text.profile, text.task, "rolling", None, text.prefix),
                *(text.context_length, text.items_sha256, text.source.sha256, None),
                *(None for _ in _GENERATION),
                *(text.metrics.n_all, "bits_per_byte"),
            )
            rows += [(*model, *place, *_record(number)) for number in _text_numbers(text)]
    return Table("", _COLUMNS, tuple(rows))


def _record(number: _Number) -> Record:
    quantity, kind, group, value = number
    if isinstance(value, Accuracy):
        return quantity, kind, group, value.value, *value.interval, value.correct, value.n, value.clusters
    if isinstance(value, Estimate):
        return quantity, kind, group, value.value, *(value.interval or (None, None)), None, None, None
    return quantity, kind, group, value, None, None, None, None, None


def _question_numbers(cell: QuestionCell) -> Iterator[_Number]:
    metrics = cell.metrics
    for name, accuracy in metrics.scores.items():
        yield name, None, None, accuracy
    yield "random", None, None, metrics.random
    simple = {
        "majority": metrics.majority,
        "context_free": metrics.context_free,
        "macro_f1": metrics.macro_f1,
        "unparsed": metrics.unparsed,
        "ambiguous": metrics.ambiguous,
        "truncated_inputs": metrics.truncated_inputs,
        "defects": len(cell.facts.defects),
        "dropped_defective": cell.facts.dropped_defective,
        "contaminated": None if cell.facts.contaminated is None else len(cell.facts.contaminated),
    }
    for name, value in simple.items():
        if value is not None:
            yield name, None, None, value
    for kind, groups in metrics.groups.items():
        for group, accuracy in groups.items():
            yield metrics.headline, kind, group, accuracy
    for name, counts in (("predicted", metrics.predicted_labels), ("answers", metrics.answer_labels)):
        for label, count in (counts or {}).items():
            yield name, "label", label, count
    if metrics.permutations is not None:
        for name in ("count", "mean_accuracy", "lowest", "highest", "consistent"):
            number = getattr(metrics.permutations, name)
            yield f"permutations_{name}", "score", metrics.permutations.score, number
        for position, count in enumerate(metrics.permutations.chosen_positions, start=1):
            yield "chosen", "shown position", str(position), count
    for chains, share in sorted((metrics.vote_curve or {}).items()):
        yield "majority_vote", "chains", str(chains), share


def _text_numbers(cell: TextCell) -> Iterator[_Number]:
    metrics = cell.metrics
    for name in ("bits_per_byte", "byte_perplexity", "word_perplexity", "token_perplexity"):
        yield name, None, None, getattr(metrics, name)
    for name in ("log_likelihood", "n", "words", "tokens", "utf8_bytes"):
        yield name, None, None, getattr(metrics, name)
