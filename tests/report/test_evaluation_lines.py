from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

import pytest
from planted_results import accuracy, question_cell, results, text_cell

from biomedllama_cli.evaluation.cells import Defect, Estimate, Permutations, Results
from biomedllama_cli.report.evaluation_lines import evaluation_lines
from biomedllama_cli.report.table_terminal import Screen
from biomedllama_cli.report.tables import TableForm

FORMS = [f"{scored}_{space}" for scored in ("text", "letter") for space in ("space", "nospace")]
RULES = ["sum", "per_token", "per_character", "per_byte", "domain_conditional"]
FULL: dict[str, Any] = {
    "scores": {
        "acc": accuracy(552, 1000),
        "parsed": accuracy(517, 1000),
        **{
            f"{form}_{rule}": accuracy(300 + 10 * row + column, 1000)
            for row, form in enumerate(FORMS)
            for column, rule in enumerate(RULES)
        },
    },
    "n_all": 1000,
    "majority": 0.552,
    "macro_f1": 0.2371,
    "predicted_labels": {"yes": 1000, "no": 0, "maybe": 0},
    "answer_labels": {"yes": 552, "no": 338, "maybe": 110},
    "groups": {"step": {"step1": accuracy(300, 600), "step2&3": accuracy(252, 400)}},
    "permutations": Permutations(
        count=4,
        mean_accuracy=0.35,
        lowest=0.341,
        highest=0.361,
        consistent=900,
        n=1000,
        chosen_positions=(2000, 1200, 800),
        score="letter_space_sum",
    ),
    "unparsed": 12,
    "ambiguous": 5,
    "vote_curve": {1: 0.451, 5: 0.48, 20: 0.5075},
    "truncated_inputs": 3,
    "smallest_margin_items": ("17", "23"),
}


def full_results() -> Results:
    cell = question_cell(
        552,
        task="pubmedqa",
        n=1000,
        shots=1,
        metrics=FULL,
        draw_rule="from the scored items themselves",
        defects=(
            Defect(id="7", kind="duplicate_options", detail="b"),
            Defect(id="9", kind="duplicate_question", detail="9 is 8"),
        ),
        dropped_defective=1,
        contaminated=("4", "5"),
        generation={"max_new_tokens": 64, "temperature": 0.7, "top_p": 0.9, "chains": 20, "backend": "hf"},
    )
    return results(
        cell, question_cell(450, bos="BOS (id 1)", profile="clean/1"), text_cell(0.8211), self_check=1.2e-4
    )


def lines_of(planted: Results | list[Results], form: TableForm = "terminal") -> list[str]:
    return evaluation_lines(planted, format=form, screen=Screen())


def test_a_question_cell_stands_with_its_interval_counts_and_baselines() -> None:
    lines = lines_of(results(question_cell(450, n=500)))
    (row,) = [line for line in lines if line.startswith("paper/1")]
    assert re.split(r"\s{2,}", row) == [
        *("paper/1", "medqa", "0", "500 of 1,273", "acc"),
        *("0.900 [0.874, 0.926]", "450/500", "0.914 [0.888, 0.940]"),
        *("0.250", "0.280", "0.250 [0.224, 0.276]"),
    ]
    assert any(line == "BOS: none" for line in lines)


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex"])
def test_everything_the_numbers_depend_on_is_said(form: TableForm) -> None:
    text = "\n".join(lines_of(full_results(), form)).replace("\\", "")
    for expected in (
        *("fp16 on cuda", "seed 42", "rows and cached examples", "differ by 1.2e-04 nats at most"),
        "BOS: none (paper/1), BOS (id 1) (clean/1)",
        "Generated answers: 64 new tokens at most, temperature 0.7, top p 0.9, 20 chains, backend hf",
        "predicted yes 1,000, no 0, maybe 0; answers yes 552, no 338, maybe 110",
        "no option could be read from 12 of 20,000 generated answers; 5 of them name more than one",
        "4 orders of the options: letter_space_sum (another score than acc) 0.350 in the mean, 0.341 to 0.361",
        "in all orders for 900 of 1,000 (0.900)",
        "defects in the data: duplicate_options 1, duplicate_question 1 (7, 9); 1 item left out",
        "the corpus holds 2 items (4, 5)",
        "3 scored options lost the left end",
        "few-shot examples: from the scored items themselves; a leak: scored questions stand before others",
        "the two best options of 2 items are closer than 2e-3 nats",
    ):
        assert expected in text, expected


def test_the_scoring_matrix_has_a_row_per_form_and_a_column_per_rule() -> None:
    lines = lines_of(full_results())
    start = next(number for number, line in enumerate(lines) if line.endswith("scoring matrix"))
    heading, *rows = lines[start + 1 : start + 6]
    assert re.split(r"\s{2,}", heading) == [
        *("scored", "sum", "per token", "per character", "per byte", "domain-conditional"),
    ]
    names = ["option text, with space", "option text, without space"]
    names += ["option letter, with space", "option letter, without space"]
    for row, (name, line) in enumerate(zip(names, rows, strict=True)):
        found = re.split(r"\s{2,}", line)
        assert found[0] == name
        assert [cell[:5] for cell in found[1:]] == [
            f"{(300 + 10 * row + column) / 1000:.3f}" for column in range(5)
        ]


def test_other_scores_groups_and_votes_have_tables_of_their_own() -> None:
    lines = lines_of(full_results())
    assert "pubmedqa, paper/1, 1 shot: other scores" in lines
    assert any(re.fullmatch(r"parsed\s+0\.517 \[0\.491, 0\.543\]\s+517/1000", line) for line in lines)
    assert any(re.fullmatch(r"step2&3\s+0\.630 \[0\.604, 0\.656\]\s+252/400", line) for line in lines)
    assert any(re.fullmatch(r"\s+20\s+0\.507|\s+20\s+0\.508", line) for line in lines)


def test_text_is_headed_by_bits_per_byte_and_tokens_never_compared() -> None:
    lines = lines_of(results(text_cell(0.8211)))
    heading, row = next(
        (lines[number], lines[number + 1]) for number, line in enumerate(lines) if line.startswith("profile")
    )
    assert heading.index("bits per byte") < heading.index("word perplexity \N{DAGGER}")
    assert "0.8211 [0.8011, 0.8411]" in row
    assert any("for comparison with published rows only" in line for line in lines)
    (token,) = [line for line in lines if "per token" in line]
    assert "8.1235 per token of tokenizer f00dfeedf00d: no measure across tokenizers" in token
    assert any("windows of 2,048 tokens, the first after EOS (id 2)" in line for line in lines)


def test_a_perplexity_without_bound_and_an_interval_that_is_missing_are_shown_as_such() -> None:
    cell = text_cell(0.8)
    endless = cell.metrics.word_perplexity.model_copy(update={"value": math.inf, "interval": None})
    single = cell.model_copy(update={"metrics": cell.metrics.model_copy(update={"word_perplexity": endless})})
    (row,) = [line for line in lines_of(results(single)) if line.startswith("paper/1")]
    assert row.endswith("inf")


def test_profiles_stand_side_by_side_with_their_difference_to_the_published_one() -> None:
    planted = results(
        question_cell(480, profile="clean/1"),
        question_cell(450),
        question_cell(600, task="pubmedqa", n=1000),
        question_cell(280, task="pubmedqa", n=500, profile="clean/1", items_sha256="9" * 64),
    )
    lines = lines_of(planted)
    start = lines.index("Accuracy by profile")
    rows = {re.split(r"\s{2,}", line)[0]: re.split(r"\s{2,}", line) for line in lines[start + 2 : start + 4]}
    assert rows["medqa"][-1] == "+0.024"
    assert rows["medqa"][1].startswith("0.353")  # paper first, though asked second
    assert rows["pubmedqa"][-1] == "-0.040\N{DAGGER}"
    assert any(line.startswith("\N{DAGGER} other items") for line in lines)


def test_one_profile_alone_has_no_table_of_profiles() -> None:
    assert not any("by profile" in line for line in lines_of(results(question_cell(450), text_cell(0.8))))


def test_csv_is_one_table_with_every_number_in_full() -> None:
    full = full_results().model_copy(update={"versions": {"biomedllama-cli": "1.2.3"}})
    text = "\n".join(lines_of([full, results(question_cell(450), source="other")], "csv")) + "\n"
    records = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))

    def find(**wanted: str) -> dict[str, str]:
        (record,) = [one for one in records if all(one[name] == value for name, value in wanted.items())]
        return record

    row = find(model="chaoyi-wu/PMC_LLAMA_7B", task="pubmedqa", quantity="text_space_per_byte")
    assert (float(row["value"]), int(row["correct"]), int(row["n"])) == (0.303, 303, 1000)
    assert float(row["low"]) == accuracy(303, 1000).interval[0]
    assert (row["source_sha256"], row["draws_sha256"], row["seed"]) == ("5" * 64, "d" * 64, "42")
    assert row["program_version"] == "1.2.3"
    assert (row["chains"], row["max_new_tokens"], row["backend"]) == ("20", "64", "hf")
    headline = find(model="other", quantity="acc")
    assert headline["headline"] == headline["quantity"]
    assert headline["chains"] == ""
    assert float(headline["value"]) == 450 / 1273
    assert headline["bos"] == "none"
    assert find(quantity="acc", group_kind="step", group="step2&3")["correct"] == "252"
    assert find(quantity="answers", group="no")["value"] == "338"
    assert float(find(quantity="majority_vote", group="20")["value"]) == 0.5075
    assert float(find(quantity="bits_per_byte")["value"]) == 0.8211
    assert find(quantity="token_perplexity")["tokenizer_fingerprint"] == "f00dfeed" * 8


def test_a_huge_perplexity_has_no_more_digits_than_it_means() -> None:
    cell = text_cell(0.8211)
    huge = Estimate(value=437312861658.5584, interval=(4.1e11, math.inf))
    metrics = cell.metrics.model_copy(update={"word_perplexity": huge})
    text = "\n".join(lines_of(results(cell.model_copy(update={"metrics": metrics}))))
    assert "4.37313e+11 [4.1e+11, inf]" in text
    assert "15.7774 [15.1000, 16.2500]" in "\n".join(lines_of(results(cell)))


def test_several_models_follow_each_other() -> None:
    lines = lines_of([results(question_cell(450), source="one"), results(question_cell(400), source="two")])
    assert [line.split(":")[1].strip() for line in lines if line.startswith("Model:")] == ["one", "two"]


def test_a_name_cannot_leave_a_comment_of_latex() -> None:
    lines = lines_of(results(question_cell(450), source="evil\n\\input{secret}"), "latex")
    (line,) = [line for line in lines if "secret" in line]
    assert line.startswith("% Model: evil")
