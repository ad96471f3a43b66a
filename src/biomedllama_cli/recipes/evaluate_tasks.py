"""Score one task under all of its profiles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from biomedllama_cli.evaluation.cells import CellFacts, Defect, QuestionCell, SourceFacts, TextCell
from biomedllama_cli.evaluation.contamination import Contamination
from biomedllama_cli.evaluation.generated_results import build_generated_metrics
from biomedllama_cli.evaluation.generation import Generator
from biomedllama_cli.evaluation.jobs import Asked
from biomedllama_cli.evaluation.likelihoods import Scored, plan_documents, plan_questions, run_pass
from biomedllama_cli.evaluation.plan import TaskPlan
from biomedllama_cli.evaluation.profiles import DrawnTask, Profile
from biomedllama_cli.evaluation.provenance import hash_items
from biomedllama_cli.evaluation.results import build_metrics, build_text_metrics
from biomedllama_cli.evaluation.variants import build_asked, read_order
from biomedllama_cli.recipes.evaluate_generation import count_truncated, describe_generation, generate_texts
from biomedllama_cli.recipes.evaluate_inputs import draw_questions, keep_sound, leave_out_contaminated
from biomedllama_cli.recipes.evaluate_run import Run
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.tasks.catalogue import LoadedDocuments, LoadedQuestions
from biomedllama_cli.tasks.fewshot import hash_draws, shuffle_items

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredTask:
    """One task under one profile: its questions as drawn, those that were asked, and their likelihoods."""

    plan: TaskPlan
    profile: Profile
    drawn: DrawnTask
    asked: Sequence[Asked]
    scored: Sequence[Scored]
    facts: CellFacts


def score_question_task(
    run: Run, plan: TaskPlan, loaded: LoadedQuestions, contamination: Contamination | None
) -> list[ScoredTask]:
    """Score a task of questions under all of its profiles in one pass.

    Args:
        run: the evaluation.
        plan: of the task.
        loaded: its items and pool.
        contamination: which items the corpus holds, where one was given.
    """
    drawn: dict[str, DrawnTask] = {}
    asked: dict[str, list[Asked]] = {}
    for profile in plan.profiles:
        drawn[profile.name] = draw_questions(plan, loaded, profile, run.settings)
        asked[profile.name] = _ask(run, plan, profile, drawn[profile.name], contamination)
    work = plan_questions(run.subject.tokenizer, asked)
    # A group is a question, or a set of options that is also scored without any question.
    with Progress(f"scoring {plan.task.name}", len(work.groups), "groups") as progress:
        tick = run.ticking(progress.advance)
        found = run_pass(
            run.subject.scorer,
            work,
            plan.task.name,
            journal=run.journal,
            ranks=run.ranks,
            on_group=tick,
            context_length=run.subject.context_length,
        )
    scored = work.assemble(found)
    run.check(plan.task.name, work.groups, found)
    done = []
    for profile in plan.profiles:
        facts = _describe(run, plan, loaded, profile, drawn[profile.name])
        if contamination is not None:
            facts = facts.model_copy(
                update={"contaminated": contamination.contaminated, "corpus": contamination.facts()}
            )
        name = profile.name
        done.append(ScoredTask(plan, profile, drawn[name], asked[name], scored[name], facts))
    return done


def _ask(
    run: Run, plan: TaskPlan, profile: Profile, drawn: DrawnTask, contamination: Contamination | None
) -> list[Asked]:
    """Return what a profile asks of the questions that are scored."""
    protocol, task = run.settings.protocol, plan.task.name
    kept = leave_out_contaminated(drawn.questions, profile, task, contamination)[: protocol.limit]
    asked = build_asked(
        profile,
        task,
        kept,
        adds_bos=run.subject.tokenizer.adds_bos,
        matrix=protocol.matrix,
        permutations=protocol.permutations,
        seed=run.settings.seed,
    )
    _tell_orders_without_effect(run, plan, profile, asked)
    return asked


def _tell_orders_without_effect(run: Run, plan: TaskPlan, profile: Profile, asked: Sequence[Asked]) -> None:
    orders = run.settings.protocol.permutations
    if orders > 1 and not any(read_order(variant.name) for one in asked for variant in one.variants):
        logger.warning(
            "%s: the prompts of profile %s show no options, so %d orders of them are not scored; --matrix also asks "
            "with the options shown",
            plan.task.name,
            profile.name,
            orders,
        )


def add_cell(run: Run, done: ScoredTask, generator: Generator | None) -> None:
    """Add the cell of a task and profile to the run, with generated answers where the profile has them."""
    task, profile = done.plan.task.name, done.profile
    n_all = len(done.drawn.questions)
    if profile.method == "generation":
        assert generator is not None
        texts = generate_texts(run, task, profile, done.asked, generator)
        metrics, samples = build_generated_metrics(profile, done.asked, done.scored, texts, n_all=n_all)
        cut = count_truncated(run, profile, done.asked)
        metrics = metrics.model_copy(update={"truncated_prompts": cut})
    else:
        metrics, samples = build_metrics(profile, done.asked, done.scored, n_all=n_all)
    name = f"samples-{profile.name}-{task}.jsonl"
    run.samples[name] = samples
    run.questions.append(
        QuestionCell(
            profile=str(profile),
            task=task,
            method=profile.method,
            metrics=metrics,
            facts=done.facts,
            samples_file=name,
        )
    )


def _describe(
    run: Run, plan: TaskPlan, loaded: LoadedQuestions, profile: Profile, drawn: DrawnTask
) -> CellFacts:
    tokenizer, questions = run.subject.tokenizer, drawn.questions
    bos = profile.puts_bos(tokenizer.adds_bos)
    return CellFacts(
        prompt=profile.prompt_for(questions[0][0]).describe(),
        bos=f"BOS (id {tokenizer.bos_id})" if bos else "none",
        context_length=run.subject.context_length,
        shots=plan.shots,
        draw_rule=drawn.rule,
        draws_sha256=hash_draws(questions),
        # In the order of ids: the seed shuffles the questions, and other draws are of the same items.
        items_sha256=hash_items(sorted((question for question, _ in questions), key=lambda item: item.id)),
        pool_sha256=None if drawn.pool is None else hash_items(drawn.pool),
        source=SourceFacts(**vars(loaded.source)),
        pool_source=SourceFacts(**vars(loaded.pool_source)) if loaded.pool_source else None,
        defects=tuple(
            Defect(id=defect.id, kind=defect.kind, detail=defect.detail) for defect in loaded.defects
        ),
        dropped_defective=len(loaded.items) - len(keep_sound(loaded, run.settings)),
        generation=describe_generation(run, profile),
        published_items=profile.count_published_items(plan.task.name),
    )


def score_text_task(run: Run, plan: TaskPlan, loaded: LoadedDocuments) -> None:
    """Score running text under all profiles that have it and add its cells to the run."""
    documents = shuffle_items(loaded.items, run.settings.seed)[: run.settings.protocol.limit]
    tokenizer, length = run.subject.tokenizer, run.subject.context_length
    done: dict[int, list[float]] = {}
    for profile in plan.profiles:
        prefix, prefix_id = profile.choose_rolling_prefix(tokenizer.bos_id, tokenizer.eos_id)
        work = plan_documents(tokenizer, documents, prefix_id=prefix_id, context_length=length)
        if prefix_id not in done:  # profiles that begin alike share what was scored
            with Progress(f"scoring {plan.task.name}", len(work.groups), "windows") as progress:
                found = run_pass(
                    run.subject.scorer,
                    work,
                    f"{plan.task.name} after {prefix}",
                    journal=run.journal,
                    ranks=run.ranks,
                    on_group=run.ticking(progress.advance),
                )
            done[prefix_id] = work.assemble(found)
        metrics, samples = build_text_metrics(
            documents, len(loaded.items), work.tokens, done[prefix_id], run.settings.seed
        )
        name = f"samples-{profile.name}-{plan.task.name}.jsonl"
        run.samples[name] = samples
        run.texts.append(
            TextCell(
                profile=str(profile),
                task=plan.task.name,
                metrics=metrics,
                prefix=f"{prefix} (id {prefix_id})",
                context_length=length,
                items_sha256=hash_items(loaded.items),
                source=SourceFacts(**vars(loaded.source)),
                samples_file=name,
            )
        )
