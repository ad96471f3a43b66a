"""Metrics of planted texts, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from biomedllama_cli.evaluation.cells import QuestionMetrics
from biomedllama_cli.evaluation.generated_results import build_generated_metrics
from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.profiles import PROFILES
from biomedllama_cli.evaluation.variants import build_asked
from biomedllama_cli.tasks.question import Question

DRUGS = ("Aspirin", "Metformin", "Lisinopril", "Insulin")


def measure(
    profile: str, questions: list[Question], texts: list[list[str]], n_all: int | None = None
) -> tuple[QuestionMetrics, list[dict[str, Any]]]:
    """Build metrics where every likelihood prefers the first option."""
    asked = build_asked(
        PROFILES[profile], "medqa", [(question, ()) for question in questions], adds_bos=False
    )
    scored = [
        {
            variant.name: tuple(
                Likelihood(-1.0 - index, 1, False, False) for index in range(len(variant.continuations))
            )
            for variant in one.variants
        }
        for one in asked
    ]
    return build_generated_metrics(PROFILES[profile], asked, scored, texts, n_all=n_all or len(asked))


@pytest.mark.parametrize(("profile", "wanted"), [("instructed", "B) Metformin"), ("finetuned", " Metformin")])
def test_exact_match_stands_beside_the_parser_and_the_likelihood(profile: str, wanted: str) -> None:
    questions = [Question(str(row), "?", DRUGS, answer) for row, answer in enumerate((1, 2, 0, 3))]
    texts = [
        wanted,
        "The answer is C.",
        "A patient",
        {"instructed": "A) Aspirin", "finetuned": "Aspirin"}[profile],
    ]
    metrics, samples = measure(profile, questions, [[text] for text in texts], n_all=9)
    assert metrics.headline == "exact_match"
    assert {name: score.correct for name, score in metrics.scores.items()} == {
        "exact_match": 1,
        "parsed": 2,
        "option_likelihood": 1,
    }
    assert (metrics.n, metrics.n_all, metrics.unparsed, metrics.vote_curve) == (4, 9, 1, None)
    assert [sample["parsed"] for sample in samples] == [[1], [2], [None], [0]]
    assert [sample["texts"] for sample in samples] == [[text] for text in texts]
    assert [sample["prediction"] for sample in samples] == [1, None, None, 0]
    assert [sample["correct"] for sample in samples] == [True, False, False, False]
    assert samples[1]["scores"] == {"exact_match": None, "parsed": 2, "option_likelihood": 0}


def test_an_answer_that_names_two_options_is_unparsed_and_counted_apart() -> None:
    questions = [Question(str(row), "?", DRUGS, row) for row in range(3)]
    texts = [[f"A) {DRUGS[1]}"], ["A patient"], [f"C) {DRUGS[2]}"]]
    metrics, samples = measure("instructed", questions, texts)
    assert (metrics.unparsed, metrics.ambiguous) == (2, 1)
    assert [sample["named"] for sample in samples] == [[[0, 1]], [[]], [[2]]]
    assert [sample["parsed"] for sample in samples] == [[None], [None], [2]]


def test_labels_are_matched_in_their_published_form_and_read_in_any() -> None:
    labels = ("yes", "no", "maybe")
    answers = (0, 1, 2, 0)
    questions = [
        Question(str(row), "?", labels, answer, f"Abstract {row}.") for row, answer in enumerate(answers)
    ]
    metrics, _ = measure("instructed", questions, [[" Yes"], [" no."], [" Maybe"], [" No"]])
    assert metrics.scores["exact_match"].correct == 2
    assert metrics.scores["parsed"].correct == 3
    assert metrics.predicted_labels is not None
    assert list(metrics.predicted_labels.values()) == [1, 1, 1]
    assert metrics.majority == 0.5
    assert metrics.unparsed == 0


def test_chains_vote_and_abstain() -> None:
    questions = [Question("1", "?", DRUGS, 1), Question("2", "?", DRUGS, 0)]
    closing = "Some thoughts.\nTherefore, the answer is ("
    texts = [
        [closing + answer for answer in ("A) Aspirin", "B) Metformin", "B", "I do not know")],
        [closing + answer for answer in ("C)", "A", "C", "A) Aspirin")],
    ]
    metrics, samples = measure("cot", questions, texts)
    assert metrics.headline == "majority_vote"
    assert "exact_match" not in metrics.scores
    assert "option_likelihood" not in metrics.scores
    assert metrics.scores["majority_vote"].correct == 1
    assert metrics.scores["parsed"].correct == 0
    assert metrics.unparsed == 1
    assert metrics.vote_curve == {1: 0.5, 2: pytest.approx((2 / 3 + 0.5) / 2, abs=1e-6), 4: 0.5}
    assert [sample["prediction"] for sample in samples] == [1, 2]
    assert [sample["agreement"] for sample in samples] == [0.5, 0.5]
    assert samples[0]["parsed"] == [0, 1, 1, None]
