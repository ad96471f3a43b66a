"""Before and after in one table, the same numbers in every form."""

from __future__ import annotations

import csv

import pytest

from biomedllama_cli.evaluation.cells import Accuracy
from biomedllama_cli.evaluation.seed_results import SeedGain, SeedGains, SeedScore
from biomedllama_cli.evaluation.seeds import measure_gain
from biomedllama_cli.evaluation.statistics import accuracy
from biomedllama_cli.report.seed_tables import gain_lines

BEFORE = [False] * 60 + [True] * 40
AFTER = [[row % 2 == 0 for row in range(100)], [row % 5 > 1 for row in range(100)]]


def build(*seeds: int, after=AFTER, folds: int = 1, majority: float = 0.4, left_out=()) -> SeedGains:
    def score(seed, answers) -> SeedScore:
        measured: Accuracy = accuracy(answers)
        return SeedScore(seed=seed, folders=("x",), accuracy=measured, unparsed=2, generated=100)

    chosen = [after[place] for place in range(len(seeds))]
    cell = SeedGain(
        profile="finetuned/1",
        task="medqa",
        score="exact_match",
        n=100,
        clusters=None,
        folds=folds,
        random=0.25,
        majority=majority,
        before=score(None, BEFORE),
        after=tuple(score(seed, answers) for seed, answers in zip(seeds, chosen, strict=True)),
        gain=measure_gain(BEFORE, chosen, seed=0),
    )
    return SeedGains(cells=(cell,), left_out=left_out)


def test_terminal_shows_before_after_and_every_seed():
    lines = gain_lines(build(0, 7))
    text = "\n".join(lines)
    assert lines[0] == "Before and after"
    assert "0.5500 ± 0.071" in text
    assert "after, seed 7" in text
    assert "2 of 100" in text
    assert "unparsed answers, upper 95 % bound (Wilson): before 7.0%, seed 0 7.0%, seed 7 7.0%" in text
    assert "+-" not in text


@pytest.mark.parametrize(("form", "mark"), [("markdown", "0.5500 ± 0.071"), ("latex", r"0.5500 $\pm$ 0.071")])
def test_documents_hold_the_published_style(form, mark):
    assert any(mark in line for line in gain_lines(build(0, 1), form))


def test_csv_is_one_table_of_numbers():
    rows = list(csv.DictReader(gain_lines(build(0, 1), "csv")))
    (row,) = rows
    assert float(row["after mean"]) == pytest.approx(0.55)
    assert float(row["after sd"]) == pytest.approx(0.0707106781)
    assert float(row["gain low"]) < float(row["gain"]) < float(row["gain high"])
    assert (row["seeds"], row["n"], row["clusters"]) == ("2", "100", "")


def test_one_seed_has_no_deviation_and_says_what_it_does_not_show():
    text = "\n".join(gain_lines(build(3)))
    assert "±" not in text
    assert "one seed shows nothing of how runs differ" in text


def test_no_significant_gain_is_said_and_the_majority_beside_it():
    text = "\n".join(gain_lines(build(0, majority=0.6)))
    assert "no significant gain" in text
    assert "always the commonest answer scores 0.6000, as much or more" in text
    right = [[True] * 100]
    assert "medqa, finetuned/1: a gain" in "\n".join(gain_lines(build(0, after=right)))
    wrong = [[False] * 100]
    assert "medqa, finetuned/1: a loss" in "\n".join(gain_lines(build(0, after=wrong)))


def test_no_change_has_an_interval_and_few_questions_are_called_few():
    text = "\n".join(gain_lines(build(0, after=[BEFORE])))
    assert "0.0000 [0.0000, 0.0000]" in text
    (row,) = csv.DictReader(gain_lines(build(0, after=[BEFORE]), "csv"))
    assert (row["gain"], row["gain low"], row["gain high"]) == ("0.0", "0.0", "0.0")
    few = "too few questions answered differently to find any difference with 80 % power)"
    assert few in text
    assert few not in "\n".join(gain_lines(build(0)))


def test_cross_validation_and_what_was_left_out_are_told():
    text = "\n".join(gain_lines(build(0, 1, folds=5, left_out=("pubmedqa under paper",))))
    assert "cross-validation: every question was answered by a model that was not trained on it" in text
    assert "not compared, since not every model has it: pubmedqa under paper" in text
    assert "cross-validation" not in "\n".join(gain_lines(build(0, 1)))


@pytest.mark.parametrize(
    ("score", "template", "told"),
    [
        ("option_likelihood", "chat", True),
        ("option_likelihood", "plain", False),
        ("exact_match", "chat", False),
    ],
)
def test_likelihoods_of_a_model_in_a_chat_template_say_that_they_are_asked_in_plain_text(
    score, template, told
):
    (cell,) = build(0, 1).cells
    gains = SeedGains(cells=(cell.model_copy(update={"score": score, "template": template}),))
    said = "medqa, finetuned/1: the options' likelihood is that after the plain prompt"
    assert (said in "\n".join(gain_lines(gains))) == told
