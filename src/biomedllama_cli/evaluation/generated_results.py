"""From generated texts to the numbers that are reported, and the samples they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from biomedllama_cli.evaluation.answer_parsing import find_named_options, sole_option, trimmed_match
from biomedllama_cli.evaluation.cells import QuestionMetrics
from biomedllama_cli.evaluation.jobs import Asked
from biomedllama_cli.evaluation.profiles import Profile
from biomedllama_cli.evaluation.results import Predictions, build_metrics
from biomedllama_cli.evaluation.scores import Scored
from biomedllama_cli.evaluation.self_consistency import agreement, majority_vote, vote_curve
from biomedllama_cli.tasks.question import Question


def build_generated_metrics(
    profile: Profile,
    asked: Sequence[Asked],
    scored: Sequence[Scored],
    texts: Sequence[Sequence[str]],
    *,
    n_all: int,
) -> tuple[QuestionMetrics, list[dict[str, Any]]]:
    """Return the metrics of a task whose answers were generated, and one sample record per question.

    `parsed` and `exact_match` are those of the first chain; `exact_match` stands only where it is the headline,
    `majority_vote` only where chains vote. `unparsed` and `ambiguous` count all chains.

    Args:
        profile: that asked.
        asked: the questions in order.
        scored: likelihoods of their options, in the same order.
        texts: what was generated for each question, one text per chain.
        n_all: questions of the whole task, before any limit.
    """
    questions = [one.question for one in asked]
    named = [
        [find_named_options(text, question) for text in row]
        for question, row in zip(questions, texts, strict=True)
    ]
    parsed = [[sole_option(options) for options in row] for row in named]
    generated: dict[str, Predictions] = {}
    if profile.headline_score == "exact_match":
        generated["exact_match"] = [
            match_exactly(row[0], question, profile) for question, row in zip(questions, texts, strict=True)
        ]
    votes_count = profile.headline_score == "majority_vote"
    if votes_count:
        generated["majority_vote"] = [majority_vote(row) for row in parsed]
    generated["parsed"] = [row[0] for row in parsed]
    metrics, samples = build_metrics(profile, asked, scored, n_all=n_all, generated=generated)
    answers = [question.answer_index for question in questions]
    metrics = metrics.model_copy(
        update={
            "unparsed": sum(index is None for row in parsed for index in row),
            "ambiguous": sum(len(options) > 1 for row in named for options in row),
            "vote_curve": vote_curve(parsed, answers) if votes_count else None,
        }
    )
    for sample, row, options, indices in zip(samples, texts, named, parsed, strict=True):
        sample |= {"texts": list(row), "named": [sorted(found) for found in options], "parsed": indices}
        if votes_count:
            sample["agreement"] = agreement(indices)
    return metrics, samples


def match_exactly(text: str, question: Question, profile: Profile) -> int | None:
    """Return the option whose wanted form a text is, both trimmed as in the original; None where it is none."""
    if trimmed_match(text, profile.gold_of(question)):
        return question.answer_index
    wanted = profile.prompt_for(question).continuations(question)
    return next((index for index, form in enumerate(wanted) if trimmed_match(text, form)), None)
