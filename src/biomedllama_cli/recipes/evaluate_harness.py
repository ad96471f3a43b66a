"""Run lm-eval's own tasks on the model of an evaluation."""

from __future__ import annotations

import logging

from biomedllama_cli.evaluation.cells import QuestionCell
from biomedllama_cli.evaluation.plan import HARNESS, Plan
from biomedllama_cli.evaluation.profiles import PROFILES
from biomedllama_cli.recipes.evaluate_run import Run
from biomedllama_cli.report.progress import Progress

logger = logging.getLogger(__name__)


def run_harness(run: Run, plan: Plan) -> None:
    """Score lm-eval's tasks with shared prefixes and add their cells to the run.

    Raises:
        SettingsError: lm-eval has no such task.
        DataError: a local file is broken or does not fit.
        UnavailableError: the hub is needed and cannot be reached.
    """
    # lm-eval takes seconds to import: only who asks for its tasks pays them.
    from biomedllama_cli.evaluation.harness import wrap_model
    from biomedllama_cli.evaluation.harness_cells import build_cell, is_question_task
    from biomedllama_cli.evaluation.harness_profile import profile_name, run_harness_tasks

    subject, tokenizer = run.subject, run.subject.tokenizer
    with Progress("scoring lm-eval's tasks", None, "groups") as progress:
        model = wrap_model(
            subject.model,
            tokenizer,
            context_length=subject.context_length,
            batch_size=subject.batch_size,
            journal=run.journal,
            ranks=run.ranks,
            on_group=run.ticking(progress.advance),
        )
        outcome = run_harness_tasks(
            model,
            list(plan.harness),
            shots=run.settings.protocol.shots or None,
            limit=run.settings.protocol.limit,
            local_rows=plan.files,
        )
    bos = f"BOS (id {tokenizer.bos_id})" if tokenizer.adds_bos else "none"
    for result in outcome.tasks:
        if is_question_task(result):
            cell, samples = build_cell(result, profile_name(), bos=bos, context_length=subject.context_length)
            cell = _count_published_items(cell, result.asked)
            run.questions.append(cell)
            run.samples[cell.samples_file] = samples
        else:
            logger.warning(
                "%s: lm-eval's task %s has no answers that are right or wrong, and this report has no place for its "
                "metrics: %s",
                result.asked,
                result.task,
                ", ".join(f"{name} {value:g}" for name, value in result.metrics.items()),
            )


def _count_published_items(cell: QuestionCell, asked: str) -> QuestionCell:
    published = PROFILES[HARNESS].count_published_items(asked)
    if published is not None and cell.metrics.n_all < published:
        logger.warning(
            "%s: lm-eval's task has %s of the %s items of the published test set; published numbers are about all of "
            "them",
            asked,
            f"{cell.metrics.n_all:,}",
            f"{published:,}",
        )
    return cell.model_copy(update={"facts": cell.facts.model_copy(update={"published_items": published})})
