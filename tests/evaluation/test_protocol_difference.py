"""Profiles of one run side by side: what of a difference is protocol."""

from __future__ import annotations

import pytest
from comparison_folders import build_question_cell, build_samples, write_run

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.output import load_results
from biomedllama_cli.evaluation.protocol_difference import compare_profiles

PAPER = [1, 0, 0, 1, 0, 0, 0, 1, 2, 0]
"""Right on the last four of ten questions."""


def write_profiles(folder, samples):
    cells = [
        (build_question_cell(rows, profile=profile, task=task), rows)
        for (profile, task), rows in samples.items()
    ]
    return write_run(folder, cells)


def test_profiles_show_which_answers_change_and_compare_common_questions(tmp_path):
    paper, clean = build_samples(PAPER), build_samples([0, 1, 2, 0, 2, 1, 0, 1, 2, 1])[3:]
    folder = write_profiles(
        tmp_path / "run",
        {("paper/1", "pubmedqa"): paper, ("clean/1", "pubmedqa"): clean, ("paper/1", "medqa"): paper},
    )
    table = compare_profiles(load_results(folder), folder)
    (task,) = table.tasks  # medqa has one profile only
    assert [(one.profile, one.accuracy.n) for one in task.profiles] == [("paper/1", 10), ("clean/1", 7)]
    (pair,) = task.pairs
    assert (pair.n_first, pair.n_second, pair.paired.n) == (10, 7, 7)
    assert pair.changed == 4  # one of them wrong both times
    assert (pair.paired.only_first, pair.paired.only_second) == (1, 1)
    assert pair.notes == ("paper/1 scores 10 questions and clean/1 7; compared on the 7 in common",)
    text = "\n".join(table.lines())
    assert "clean/1 minus paper/1: 4 of 7 answers change" in text
    assert "paper/1 (acc): 4/10 = 0.4000" in text


def test_options_in_another_wording_are_the_same_question(tmp_path):
    paper = build_samples(PAPER)
    letters = build_samples([None, *PAPER[1:]], options=["A", "B", "C"])
    folder = write_profiles(tmp_path / "run", {("paper/1", "x"): paper, ("finetuned/1", "x"): letters})
    (pair,) = compare_profiles(load_results(folder), folder).tasks[0].pairs
    assert (pair.changed, pair.paired.n) == (1, 10)
    assert pair.paired.difference.value == 0


def test_the_same_id_of_another_question_is_no_common_question(tmp_path):
    paper, other = build_samples(PAPER), build_samples(PAPER, question="Something else?")
    folder = write_profiles(tmp_path / "run", {("paper/1", "x"): paper, ("harness/1", "x"): other})
    (task,) = compare_profiles(load_results(folder), folder).tasks
    assert task.pairs == ()
    assert task.notes == ("paper/1 and harness/1 have no question in common and are not compared",)
    assert any(task.notes[0] in line for line in task_lines(folder))


def task_lines(folder):
    return compare_profiles(load_results(folder), folder).lines()


def test_holm_allows_for_every_pair_of_the_table(tmp_path):
    samples = {
        (profile, "x"): build_samples([row % 3 for row in range(10)] if profile == "clean/1" else PAPER)
        for profile in ("paper/1", "clean/1", "harness/1")
    }
    folder = write_profiles(tmp_path / "run", samples)
    first, same, last = compare_profiles(load_results(folder), folder).tasks[0].pairs
    assert first.paired.p_value == last.paired.p_value == pytest.approx(2 / 2**6)
    assert first.p_holm == last.p_holm == pytest.approx(3 * 2 / 2**6)
    assert same.p_holm == 1


def test_missing_samples_are_named(tmp_path):
    folder = write_profiles(
        tmp_path / "run", {("paper/1", "x"): build_samples(PAPER), ("clean/1", "x"): build_samples(PAPER)}
    )
    (folder / "samples-clean-x.jsonl").unlink()
    with pytest.raises(DataError, match="samples-clean-x"):
        compare_profiles(load_results(folder), folder)
