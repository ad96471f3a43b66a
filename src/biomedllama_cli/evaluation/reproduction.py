"""Run a published row again and hold what came out against what was printed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.evaluation.cells import QuestionCell, Results, TextCell
from biomedllama_cli.evaluation.published import PublishedCell, PublishedRow
from biomedllama_cli.evaluation.reproduction_report import RANKS, Candidate, CellReproduction, Reproduction
from biomedllama_cli.evaluation.verdicts import Evidence, Samples, judge_count, judge_perplexity

PUBLISHED_SEED = 42
"""Of the item shuffle and the few-shot draws in the original harness."""


@dataclass(frozen=True)
class RunRequest:
    """What one model has to run for a row's cells.

    Attributes:
        model: hub id or folder.
        profile: all cells of a row share it.
        tasks: in the table's order.
        shots: few-shot examples per question, by task.
        context_length: longest input (in tokens).
    """

    model: str
    profile: str
    tasks: tuple[str, ...]
    shots: Mapping[str, int]
    context_length: int


def settings_of(
    row: PublishedRow, models: Sequence[str] = (), *, tasks: Collection[str] | None = None
) -> list[RunRequest]:
    """Return what has to be run for every cell of a row: one request per model.

    Args:
        row: a published row.
        models: weights to use instead of the published ones (hub ids or folders).
        tasks: run only these of the row's tasks.

    Raises:
        SettingsError: the row is chance, has no public weights and no model is given, or lacks a task.
    """
    if not row.is_model:
        raise SettingsError(
            f"reproduce names the row {row.name!r}, which is chance: there is nothing to run",
            "Name a row of a model; every table of results has a column for chance.",
        )
    weights = list(models) or ([row.hub_id] if row.hub_id else [])
    if not weights:
        raise SettingsError(
            f"reproduce names the row {row.name!r}, whose weights were never published",
            "Give --model with a folder or hub id of such weights.",
        )
    known = [cell.task for cell in row.cells]
    unknown = [task for task in tasks or () if task not in known]
    if unknown:
        raise SettingsError(
            f"the row {row.name!r} has no value for the task {unknown[0]!r}",
            f"Its tasks: {', '.join(known)}.",
        )
    cells = [cell for cell in row.cells if tasks is None or cell.task in tasks]
    if not cells:
        raise SettingsError(
            f"no task of the row {row.name!r} is asked for", f"Its tasks: {', '.join(known)}."
        )
    assert cells[0].profile is not None
    assert len({(cell.profile, cell.context_length) for cell in cells}) == 1
    return [
        RunRequest(
            model=model,
            profile=cells[0].profile,
            tasks=tuple(cell.task for cell in cells),
            shots={cell.task: cell.shots for cell in cells},
            context_length=cells[0].context_length,
        )
        for model in weights
    ]


def judge(
    row: PublishedRow,
    results: Results,
    samples: Mapping[str, Samples],
    precision_error: float | None,
    *,
    reasons: Mapping[str, str] | None = None,
) -> Reproduction:
    """Hold a run's results against a published row.

    Args:
        row: the published row.
        results: of the run.
        samples: the records of each samples file, by the file's name as in the results' cells.
        precision_error: largest difference of a log-likelihood (in nats) found when scoring again, also in the
            published precision; None where it was not measured.
        reasons: why a task was not run, by task.
    """
    cells = []
    scored: tuple[QuestionCell | TextCell, ...] = (*results.questions, *results.texts)
    for published in row.cells:
        ran = [cell for cell in scored if cell.task == published.task]
        found = next((cell for cell in ran if _asks_as(cell, published)), None)
        if found is None:
            reason = (reasons or {}).get(published.task) or _why_not_run(published, ran)
            cells.append(CellReproduction(published=published, verdict="not run", reason=reason))
        else:
            departures = _find_departures(published, found, results)
            evidence = Evidence(samples.get(found.samples_file), precision_error, departures)
            cells.append(_judge_cell(published, found, evidence))
    return Reproduction(row=row, model=results.model, precision_error=precision_error, cells=tuple(cells))


def _judge_cell(
    published: PublishedCell, found: QuestionCell | TextCell, evidence: Evidence
) -> CellReproduction:
    if isinstance(found, TextCell):
        candidates = [judge_perplexity(published, found, evidence)]
        bos, beside = found.prefix, _describe_text(found)
    else:
        scores = [metric for metric in published.metrics if metric in found.metrics.scores]
        candidates = [judge_count(published, found, metric, evidence) for metric in scores]
        bos, beside = found.facts.bos, _describe_baselines(found)
    best = min(candidates, key=_rank, default=None)
    return CellReproduction(
        published=published,
        verdict=best.verdict if best else "not run",
        metric=best.metric if best else None,
        reason=best.reason if best else f"the results hold no score {' or '.join(published.metrics)}",
        profile=found.profile,
        bos=bos,
        n_all=found.metrics.n_all,
        departures=evidence.departures,
        beside=beside,
        candidates=tuple(candidates),
    )


def _rank(candidate: Candidate) -> tuple[int, float]:
    distance = float("inf") if candidate.difference is None else abs(candidate.difference)
    return RANKS[candidate.verdict], distance


def _shots(cell: QuestionCell | TextCell) -> int:
    return 0 if isinstance(cell, TextCell) else cell.facts.shots


def _asks_as(cell: QuestionCell | TextCell, published: PublishedCell) -> bool:
    return cell.profile.split("/")[0] == published.profile and _shots(cell) == published.shots


def _why_not_run(published: PublishedCell, ran: Sequence[QuestionCell | TextCell]) -> str:
    if published.profile is None:
        return "chance is computed, not run"
    if not ran:
        return "the results do not hold this task"
    asked = " and ".join(f"profile {cell.profile} with {_shots(cell)} shots" for cell in ran)
    return f"the task ran as {asked}; the row needs profile {published.profile} with {published.shots} shots"


def _find_departures(
    published: PublishedCell, found: QuestionCell | TextCell, results: Results
) -> tuple[str, ...]:
    """Return what is known to differ from the published protocol, however the numbers came out."""
    departures = []
    length = found.context_length if isinstance(found, TextCell) else found.facts.context_length
    if length != published.context_length:
        departures.append(f"context of {length} tokens, published {published.context_length}")
    if isinstance(found, TextCell):
        return tuple(departures)
    facts = found.facts
    has_bos = facts.bos != "none"
    if has_bos and published.profile == "paper":
        departures.append(f"{facts.bos} stands first, published without BOS")
    if not has_bos and published.profile != "paper":
        departures.append("no BOS, published with the tokenizer's")
    if published.shots:
        if results.seed != PUBLISHED_SEED:
            departures.append(f"examples drawn with seed {results.seed}, published {PUBLISHED_SEED}")
        if results.settings.get("protocol", {}).get("draw") == "fixed":
            departures.append("the same examples for all questions, published other ones for each")
        if facts.pool_source is None and published.task != "pubmedqa":
            departures.append("examples drawn from the scored questions, published from the training split")
    if facts.dropped_defective:
        departures.append(f"{facts.dropped_defective} defective questions were left out")
    return tuple(departures)


def _describe_text(cell: TextCell) -> str:
    if cell.source.kind == "file":
        return (
            f"{cell.metrics.n} documents of a local file; the published value is over the Pile's whole test split, "
            "whose number of documents was not printed"
        )
    return f"{cell.metrics.n} documents"


def _describe_baselines(cell: QuestionCell) -> str:
    metrics = cell.metrics
    parts = [f"chance {metrics.random:.4f}"]
    if metrics.majority is not None:
        parts.append(f"always the commonest answer {metrics.majority:.4f}")
    if metrics.macro_f1 is not None:
        parts.append(f"macro-F1 {metrics.macro_f1:.4f}")
    if metrics.predicted_labels:
        counts = ", ".join(f"{label} {count}" for label, count in metrics.predicted_labels.items())
        parts.append(f"predicted {counts}")
    return "; ".join(parts)
