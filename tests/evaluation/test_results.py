"""Metrics from planted log-likelihoods, worked out by hand, and the records of samples."""

from __future__ import annotations

import hashlib
import json

import pytest

from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.profiles import PROFILES
from biomedllama_cli.evaluation.results import build_metrics
from biomedllama_cli.evaluation.statistics import wilson_interval
from biomedllama_cli.evaluation.variants import build_asked, read_order
from biomedllama_cli.tasks.question import Question

LABELS = ("yes", "no", "maybe")


def likelihoods(values, tokens=None, truncated=False):
    tokens = tokens or [1] * len(values)
    return tuple(
        Likelihood(value, count, False, truncated) for value, count in zip(values, tokens, strict=True)
    )


def measure(profile, planted, *, matrix=False, permutations=1, n_all=None, generated=None):
    """Build metrics of questions; `planted` gives each its likelihoods by variant, zeros where it has none."""
    asked = build_asked(
        PROFILES[profile],
        "medqa",
        [(item, ()) for item, _ in planted],
        adds_bos=False,
        matrix=matrix,
        permutations=permutations,
        seed=42,
    )
    scored = [
        {
            variant.name: plant(variant)
            if callable(plant)
            else plant.get(variant.name, likelihoods([0.0] * len(variant.continuations)))
            for variant in one.variants
        }
        for one, (_, plant) in zip(asked, planted, strict=True)
    ]
    return build_metrics(PROFILES[profile], asked, scored, n_all=n_all or len(planted), generated=generated)


def make_labelled(answers, contexts=None):
    return [
        Question(str(row), "?", LABELS, answer, contexts[row] if contexts else f"Abstract {row}.")
        for row, answer in enumerate(answers)
    ]


def test_every_score_of_the_matrix_as_worked_out_by_hand():
    # Characters 4, 2 and 8; UTF-8 bytes 4, 6 and 8; tokens 2, 1 and 4.
    item = Question("1", "?", ("Zinc", "中国", "Seaborgi"), 1)
    tokens = [2, 1, 4]
    planted = {
        "text_space": likelihoods([-4.0, -3.0, -6.0], tokens),
        "premise_text_space": likelihoods([-9.0, -2.0, -20.0], tokens),
        "text_nospace": likelihoods([-4.0, -6.0, -7.0], tokens),
        "letter_space": likelihoods([-1.0, -0.5, -2.0]),
        "premise_letter_space": likelihoods([-3.0, -0.25, -2.5]),
        "letter_nospace": likelihoods([-3.0, -2.0, -1.0]),
    }
    metrics, (sample,) = measure("paper", [(item, planted)], matrix=True)
    assert sample["scores"] == {
        "acc": 1,
        "acc_norm": 2,  # -1, -1.5, -0.75
        "text_space_sum": 1,
        "text_space_per_token": 2,  # -2, -3, -1.5
        "text_space_per_character": 2,
        "text_space_per_byte": 1,  # -1, -0.5, -0.75
        "text_space_domain_conditional": 2,  # 5, -1, 14
        "text_nospace_sum": 0,
        "text_nospace_per_token": 2,  # -2, -6, -1.75
        "text_nospace_per_character": 2,  # -1, -3, -0.875
        "text_nospace_per_byte": 2,  # -1, -1, -0.875
        "text_nospace_domain_conditional": 0,
        "letter_space_sum": 1,
        "letter_space_per_token": 1,
        "letter_space_per_character": 1,
        "letter_space_per_byte": 1,
        "letter_space_domain_conditional": 0,  # 2, -0.25, 0.5
        "letter_nospace_sum": 2,
        "letter_nospace_per_token": 2,
        "letter_nospace_per_character": 2,
        "letter_nospace_per_byte": 2,
        "letter_nospace_domain_conditional": 2,
    }
    assert {name: score.correct for name, score in metrics.scores.items()} == {
        name: int(choice == 1) for name, choice in sample["scores"].items()
    }


def test_acc_norm_divides_by_characters_without_the_space():
    item = Question("1", "?", ("ab", "abcdefgh"), 1)
    metrics, _ = measure("paper", [(item, {"text_space": likelihoods([-4.0, -12.8])})])
    assert metrics.headline == "acc"
    assert metrics.scores["acc"].correct == 0
    assert metrics.scores["acc_norm"].correct == 1  # -1.6 against -2; with the space -1.42 against -1.33
    assert list(metrics.scores) == ["acc", "acc_norm"]


def test_questions_of_several_kinds_have_the_scores_that_all_of_them_have():
    knowledge = Question("1", "Which?", ("tin", "iron"), 1)
    labelled = Question("2", "Is it?", ("yes", "no", "maybe"), 0, "It is.")
    metrics, samples = measure(
        "paper",
        [
            (knowledge, {"text_space": likelihoods([-3.0, -1.0])}),
            (labelled, {"text_nospace": likelihoods([-1.0, -2.0, -3.0])}),
        ],
    )
    assert set(metrics.scores) == {"acc"}
    assert (metrics.scores["acc"].correct, metrics.scores["acc"].n) == (2, 2)
    assert [sample["scores"] for sample in samples] == [{"acc": 1}, {"acc": 0}]


def test_only_the_prefix_is_left_out_of_an_option_that_begins_with_a_space():
    item = Question("1", "?", ("ab", " abc"), 1)
    _, (sample,) = measure("paper", [(item, {"text_space": likelihoods([-2.0, -3.6])})])
    assert sample["scores"]["acc_norm"] == 1  # -3.6 / 4 is better than -2 / 2; -3.6 / 3 would not be


def test_first_of_equal_options_wins_and_close_ones_are_listed():
    items = [Question(name, "?", ("a", "b", "c"), 0) for name in ("tie", "close", "clear", "far")]
    rows = [[-2.0, -1.0, -1.0], [-1.0, -1.0019, -5.0], [-1.0, -1.0021, -5.0], [-1.0, -9.0, -9.0001]]
    planted = [(item, {"text_space": likelihoods(row)}) for item, row in zip(items, rows, strict=True)]
    metrics, samples = measure("paper", planted)
    assert [sample["prediction"] for sample in samples] == [1, 0, 0, 0]
    assert metrics.smallest_margin_items == ("tie", "close")


def test_pubmedqa_cell_names_majority_labels_f1_and_accuracy_by_answer():
    rows = [[-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0], [-3.0, -1.0, -2.0], [-1.0, -1.0, -1.0]]
    planted = [
        (item, {"text_nospace": likelihoods(row)})
        for item, row in zip(make_labelled((0, 0, 1, 2)), rows, strict=True)
    ]
    metrics, samples = measure("paper", planted, n_all=1000)
    assert (metrics.n, metrics.n_all) == (4, 1000)
    assert metrics.scores["acc"].correct == 2
    assert list(metrics.scores) == ["acc"]  # labels differ in length for no reason of meaning
    assert metrics.predicted_labels == {"Yes": 2, "No": 2, "Maybe": 0}
    assert metrics.answer_labels == {"Yes": 2, "No": 1, "Maybe": 1}
    assert metrics.majority == 0.5
    assert metrics.random == pytest.approx(1 / 3)
    assert metrics.macro_f1 == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    by_answer = metrics.groups["answer"]
    assert {label: (group.correct, group.n) for label, group in by_answer.items()} == {
        "Maybe": (0, 1),
        "No": (1, 1),
        "Yes": (1, 2),
    }
    assert samples[0]["groups"] == {"answer": "Yes"}
    assert samples[0]["options"] == ["Yes", "No", "Maybe"]


def test_positions_are_no_labels_but_have_a_majority():
    planted = [(Question(str(row), "?", ("a", "b"), int(row > 2)), {}) for row in range(10)]
    metrics, _ = measure("paper", planted)
    assert metrics.macro_f1 is metrics.predicted_labels is metrics.answer_labels is None
    assert metrics.majority == 0.7
    assert metrics.groups == {}


def test_groups_of_the_data_are_measured_by_kind_and_value():
    facts = [("Surgery", "step1", 0), ("Anatomy", "step1", 1), ("Surgery", "step2&3", 1)]
    planted = [
        (
            Question(str(row), "?", ("a", "b"), answer, None, None, (("subject", subject), ("step", step))),
            {"text_space": likelihoods([-1.0, -2.0])},
        )
        for row, (subject, step, answer) in enumerate(facts)
    ]
    metrics, samples = measure("paper", planted)
    counts = {
        kind: {value: (each.correct, each.n) for value, each in values.items()}
        for kind, values in metrics.groups.items()
    }
    assert counts == {
        "step": {"step1": (1, 2), "step2&3": (0, 1)},
        "subject": {"Anatomy": (0, 1), "Surgery": (1, 2)},
    }
    assert [list(values) for values in metrics.groups.values()] == [
        ["step1", "step2&3"],
        ["Anatomy", "Surgery"],
    ]
    assert samples[1]["groups"] == {"subject": "Anatomy", "step": "step1"}


def test_context_free_baseline_is_the_accuracy_of_the_options_alone():
    planted = [
        (
            Question(str(row), "?", ("a", "b"), 1),
            {"text_space": likelihoods([-1.0, -2.0]), "context_free": likelihoods([-3.0, -3.0 + row])},
        )
        for row in range(4)
    ]
    metrics, _ = measure("paper", planted)
    assert metrics.context_free.correct == 3
    assert metrics.scores["acc"].correct == 0


def test_items_that_share_a_passage_widen_the_interval():
    answers, contexts = [0, 0, 1, 1] * 5, [f"Passage {row // 2}" for row in range(20)]
    plant = {"text_nospace": likelihoods([-1.0, -2.0, -3.0])}
    apart, samples = measure("paper", [(item, plant) for item in make_labelled(answers)])
    shared, _ = measure("paper", [(item, plant) for item in make_labelled(answers, contexts)])
    one, other = apart.scores["acc"], shared.scores["acc"]
    assert one.interval == wilson_interval(10, 20)
    assert one.clusters is None
    assert other.clusters == 10
    assert other.interval[1] - other.interval[0] > 1.2 * (one.interval[1] - one.interval[0])
    assert samples[0]["cluster"] == hashlib.sha256(b"Abstract 0.").hexdigest()[:16]


def plant_favourite(option):
    """Prefer one option whatever the order."""
    return lambda variant: likelihoods([-1.0 if index == option else -2.0 for index in range(3)])


def plant_first_place(variant):
    """Prefer whatever is shown first."""
    permuted = read_order(variant.name)
    first = permuted[2][0] if permuted else 0
    return likelihoods([-1.0 if index == first else -2.0 for index in range(3)])


def test_order_sensitivity_maps_choices_back_to_the_question_s_own_order():
    items = [Question(str(row), "?", ("red", "green", "blue"), row % 3) for row in range(6)]
    steady, _ = measure("instructed", [(item, plant_favourite(2)) for item in items], permutations=6,
                        generated={"exact_match": [0] * 6})  # fmt: skip
    assert (steady.permutations.count, steady.permutations.n, steady.permutations.consistent) == (6, 6, 6)
    assert steady.permutations.mean_accuracy == pytest.approx(2 / 6)
    assert steady.permutations.lowest == steady.permutations.highest == pytest.approx(2 / 6)
    assert steady.permutations.score == "option_likelihood" in steady.scores
    assert steady.permutations.chosen_positions == (12, 12, 12)  # all six orders of three, six questions

    first, _ = measure("instructed", [(item, plant_first_place) for item in items], permutations=6,
                       generated={"exact_match": [0] * 6})  # fmt: skip
    assert first.permutations.consistent == 0
    assert first.permutations.chosen_positions == (36, 0, 0)
    assert first.permutations.mean_accuracy == pytest.approx(1 / 3)


def test_order_sensitivity_is_that_of_the_letters_in_a_matrix_and_none_without():
    item = Question("1", "?", ("red", "green", "blue"), 1)
    metrics, _ = measure("paper", [(item, plant_first_place)], matrix=True, permutations=3)
    assert metrics.permutations.count == 3
    assert metrics.permutations.chosen_positions == (3, 0, 0)
    assert metrics.permutations.score == "letter_space_sum" in metrics.scores
    assert measure("paper", [(item, plant_first_place)], permutations=3)[0].permutations is None
    assert measure("paper", [(item, plant_first_place)], matrix=True)[0].permutations is None


def test_generated_answers_are_the_headline_and_likelihood_stands_beside():
    items = make_labelled((0, 1, 2, 0))
    planted = [(item, {"text_space": likelihoods([-1.0, -2.0, -3.0])}) for item in items]
    generated = {"exact_match": [0, None, 1, None], "parsed": [0, 1, 1, None]}
    metrics, samples = measure("instructed", planted, generated=generated)
    assert metrics.headline == "exact_match"
    assert {name: score.correct for name, score in metrics.scores.items()} == {
        "exact_match": 1,
        "parsed": 2,
        "option_likelihood": 2,
    }
    assert metrics.unparsed == 1
    assert metrics.predicted_labels == {"Yes": 1, "No": 1, "Maybe": 0}
    assert metrics.macro_f1 == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert [sample["prediction"] for sample in samples] == [0, None, 1, None]
    assert [sample["correct"] for sample in samples] == [True, False, False, False]
    assert samples[1]["scores"] == {"exact_match": None, "parsed": 1, "option_likelihood": 0}


def test_chain_of_thought_has_no_likelihood_of_its_own():
    item = Question("1", "?", ("red", "green"), 1)
    metrics, (sample,) = measure("cot", [(item, {})], generated={"majority_vote": [1]})
    assert metrics.headline == "majority_vote"
    assert list(metrics.scores) == ["majority_vote"]
    assert metrics.smallest_margin_items == ()
    assert sample["log_likelihoods"] == sample["tokens"] == []


def test_sample_records_hold_their_fields_in_order_and_fit_json():
    item = Question("q7", "Which?", ("Zinc", "Iron"), 1)
    example = Question("t3", "Who?", ("Me", "You"), 0)
    asked = build_asked(PROFILES["paper"], "medqa", [(item, (example,))], adds_bos=False)
    scored = [{"text_space": likelihoods([-3.5, -2.5], [2, 3]), "context_free": likelihoods([-1.0, -2.0])}]
    _, (sample,) = build_metrics(PROFILES["paper"], asked, scored, n_all=1)
    assert list(json.loads(json.dumps(sample)).items()) == [
        ("id", "q7"),
        ("question", "Which?"),
        ("options", ["Zinc", "Iron"]),
        ("answer_index", 1),
        ("example_ids", ["t3"]),
        ("log_likelihoods", [-3.5, -2.5]),
        ("prediction", 1),
        ("correct", True),
        ("tokens", [2, 3]),
        ("scores", {"acc": 1, "acc_norm": 1}),
        ("groups", {}),
        ("cluster", None),
    ]


def test_truncated_inputs_are_counted():
    item = Question("1", "?", ("a", "b"), 0)
    metrics, _ = measure("paper", [(item, {"text_space": likelihoods([-1.0, -2.0], truncated=True)})])
    assert metrics.truncated_inputs == 2
