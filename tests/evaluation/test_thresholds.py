from __future__ import annotations

import pytest
from planted_results import question_cell, results, text_cell

from biomedllama_cli.errors import ExitCode, SettingsError, ThresholdError
from biomedllama_cli.evaluation.thresholds import (
    Threshold,
    check_threshold_names,
    check_thresholds,
    parse_threshold,
    parse_thresholds,
)


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ("medqa=0.30", Threshold(None, "medqa", 0.30)),
        ("clean:medqa-5=.25", Threshold("clean", "medqa-5", 0.25)),
        ("clean/1:medqa = 1e-1", Threshold("clean/1", "medqa", 0.1)),
        ("pubmed-abstracts=1.25", Threshold(None, "pubmed-abstracts", 1.25)),
    ],
)
def test_a_threshold_names_task_and_value_and_maybe_a_profile(text, threshold):
    assert parse_threshold(text) == threshold
    assert parse_threshold(str(threshold)) == threshold


@pytest.mark.parametrize(
    "text", ["medqa", "=0.3", "medqa=", "medqa=high", "medqa=nan", "medqa=inf", "medqa=-0.1", ":medqa=0.3"]
)
def test_another_form_is_refused_with_an_example(text):
    with pytest.raises(SettingsError) as caught:
        parse_threshold(text)
    assert repr(text) in caught.value.message
    assert "medqa=0.30" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("medqs=0.3", "medqs is not evaluated", "medqa"),
        ("cleen:medqa=0.3", "profile cleen is not evaluated", "clean"),
        ("medqa=30", "cannot exceed 1", "0.3"),
    ],
)
def test_what_no_result_can_meet_is_refused_beforehand(text, message, hint):
    with pytest.raises(SettingsError) as caught:
        check_threshold_names(
            [parse_threshold(text)], questions=["medqa"], texts=["abstracts"], profiles=["paper/1", "clean/1"]
        )
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_bits_per_byte_may_exceed_one():
    check_threshold_names(
        [parse_threshold("abstracts=1.5")], questions=["medqa"], texts=["abstracts"], profiles=["paper/1"]
    )


def failures_of(texts, *planted):
    return check_thresholds(parse_thresholds(texts), planted)


def test_an_accuracy_fails_below_its_value_and_passes_at_it():
    planted = results(question_cell(300, n=1000), text_cell(0.8))
    assert failures_of(["medqa=0.3"], planted) == ()
    assert failures_of(["medqa=0.3001"], planted) == (
        "medqa under paper/1 has acc 0.3 (300/1000), below 0.3001",
    )


def test_bits_per_byte_fail_above_their_value():
    planted = results(text_cell(0.8, task="abstracts"))
    assert failures_of(["abstracts=0.8"], planted) == ()
    assert failures_of(["abstracts=0.79"], planted) == (
        "abstracts under paper/1 has 0.8 bits per byte, above 0.79",
    )


def test_without_a_profile_all_profiles_of_the_task_count_and_with_one_only_that():
    planted = results(question_cell(300, n=1000), question_cell(500, n=1000, profile="clean/1"))
    assert len(failures_of(["medqa=0.6"], planted)) == 2
    assert len(failures_of(["medqa=0.4"], planted)) == 1
    assert failures_of(["clean:medqa=0.4", "clean/1:medqa=0.4"], planted) == ()


def test_a_task_without_a_result_does_not_pass():
    planted = results(question_cell(300, n=1000))
    assert failures_of(["clean:medqa=0.1"], planted) == ("clean:medqa=0.1: it was not evaluated",)


def test_several_models_are_told_apart():
    good = results(question_cell(500, n=1000), source="good")
    bad = results(question_cell(300, n=1000), source="bad")
    (sentence,) = failures_of(["medqa=0.4"], good, bad)
    assert sentence.startswith("bad: medqa under paper/1")


def test_the_error_has_an_exit_code_of_its_own():
    assert ThresholdError("").exit_code == ExitCode.BELOW_THRESHOLD == 8
