"""Results folders are compared where that is honest, and refused with the field's name where it is not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from comparison_folders import BOS, PROMPT, build_question_cell, build_samples, build_text_cell, write_run

from biomedllama_cli.errors import DataError, SettingsError, UserError
from biomedllama_cli.evaluation.comparison import compare
from biomedllama_cli.evaluation.comparison_cells import Comparison

GOOD = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
"""All ten answers right."""
WORSE = [1, 0, 0, 1, 0, 0, 0, 1, 2, 0]
"""The first six of them wrong."""


def write_answers(folder, predictions, *, seed=42, model=None, samples=None, **changes):
    rows = build_samples(predictions, **(samples or {}))
    return write_run(folder, [(build_question_cell(rows, **changes), rows)], seed=seed, **(model or {}))


def write_texts(folder, values, **changes):
    return write_run(folder, texts=[build_text_cell(values, **changes)])


def test_two_runs_show_counts_difference_test_and_reach(tmp_path):
    first = write_answers(tmp_path / "base", WORSE, fixed_labels=True)
    second = write_answers(tmp_path / "tuned", GOOD, fixed_labels=True)
    comparison = compare([first, second])
    cell = comparison.questions[0]
    assert (cell.first, cell.second, cell.profile, cell.task, cell.score) == (
        "base", "tuned", "paper/1", "pubmedqa", "acc",
    )  # fmt: skip
    assert [one.correct for one in cell.accuracies] == [4, 10]
    assert (cell.paired.only_first, cell.paired.only_second, cell.paired.both) == (0, 6, 4)
    assert cell.paired.difference.value == pytest.approx(0.6)
    assert cell.paired.p_value == pytest.approx(2 / 2**6)
    assert cell.p_holm == cell.paired.p_value
    assert cell.macro_f1.value > 0
    text = "\n".join(comparison.lines())
    assert "only base right 0, only tuned right 6" in text
    assert "difference +60.0 points" in text
    assert "macro-F1" in text
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
    assert comparison.schema_version == "biomedllama.comparison/1"


def test_identical_runs_give_zero_difference_also_with_the_same_weights(tmp_path):
    model = {"weights_sha256": "b" * 64}
    folders = []
    for name in ("one", "two"):
        rows = build_samples(WORSE)
        text = build_text_cell([-70.0, -80.0, -65.0])
        folders.append(write_run(tmp_path / name, [(build_question_cell(rows), rows)], [text], **model))
    comparison = compare(folders)
    assert comparison.questions[0].paired.difference.value == 0
    assert comparison.questions[0].paired.p_value == 1
    assert comparison.texts[0].difference.value == 0
    assert comparison.texts[0].difference.interval == (0, 0)
    assert comparison.texts[0].p_value == 1
    assert comparison.seeds == ()


def test_order_of_samples_does_not_matter(tmp_path):
    first = write_answers(tmp_path / "a", WORSE)
    rows = build_samples(GOOD)
    second = write_run(tmp_path / "b", [(build_question_cell(rows), rows[::-1])])
    assert compare([first, second]).questions[0].paired.only_second == 6


def test_holm_allows_for_all_pairs_of_three_models_and_for_text(tmp_path):
    folders = []
    for row, name in enumerate(("a", "b", "c")):
        samples = build_samples(WORSE if row else GOOD)
        text = build_text_cell([-70.0 - row, -80.0 - 2 * row, -65.0 + row])
        folders.append(write_run(tmp_path / name, [(build_question_cell(samples), samples)], [text]))
    comparison = compare(folders)
    assert [(cell.first, cell.second) for cell in comparison.questions] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    assert comparison.tests == 6
    smallest = comparison.questions[0].paired.p_value
    assert all(smallest <= text.p_value for text in comparison.texts)
    assert comparison.questions[0].p_holm == pytest.approx(6 * smallest)
    assert all(text.p_holm >= text.p_value for text in comparison.texts)


def test_questions_that_share_a_passage_are_compared_as_passages(tmp_path):
    rows = [{**sample, "cluster": f"p{row // 2}"} for row, sample in enumerate(build_samples(WORSE))]
    better = [{**sample, "cluster": f"p{row // 2}"} for row, sample in enumerate(build_samples(GOOD))]
    folders = [
        write_run(tmp_path / name, [(build_question_cell(samples), samples)])
        for name, samples in (("a", rows), ("b", better))
    ]
    cell = compare(folders).questions[0]
    assert cell.paired.clusters == 5
    assert cell.accuracies[0].clusters == 5
    assert cell.paired.p_value == pytest.approx(2 / 2**3)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"profile": "paper/2"}, SettingsError, "profile is 'paper/1' in a and 'paper/2' in b"),
        ({"prompt": {**PROMPT, "space": False}}, SettingsError, r"prompt\.space is True in a and False in b"),
        ({"shots": 3}, SettingsError, "shots is 0 in a and 3 in b"),
        ({"method": "generation"}, SettingsError, "method is 'likelihood' in a and 'generation' in b"),
        ({"bos": BOS}, SettingsError, "bos is 'none' in a and 'BOS' in b"),
        ({"generation": {"chains": 2}}, SettingsError, r"generation\.chains is None in a and 2 in b"),
        ({"items_sha256": "1" * 64}, DataError, "items_sha256 is"),
    ],
)
def test_questions_that_were_not_asked_alike_are_refused(tmp_path, changes, error, sentence):
    first = write_answers(tmp_path / "a", WORSE)
    second = write_answers(tmp_path / "b", GOOD, **changes)
    with pytest.raises(error, match=f"pubmedqa under paper cannot be compared: {sentence}") as caught:
        compare([first, second])
    assert caught.value.hint


def test_answers_that_were_generated_in_another_way_are_refused_with_the_option_to_set(tmp_path):
    generation = {"max_new_tokens": 4, "temperature": 0.7, "top_p": 1.0, "chains": 2, "backend": "hf"}
    first = write_answers(tmp_path / "a", WORSE, generation=generation)
    same = write_answers(tmp_path / "b", GOOD, generation=generation)
    assert len(compare([first, same]).questions) == 1
    other = write_answers(tmp_path / "c", GOOD, generation={**generation, "max_new_tokens": 12})
    with pytest.raises(SettingsError, match=r"generation\.max_new_tokens is 4 in a and 12 in c") as caught:
        compare([first, other])
    assert caught.value.hint == "Evaluate both with the same --max-new-tokens."


def test_other_draws_are_refused_only_where_there_are_examples(tmp_path):
    few = {"shots": 3, "draw_rule": "per question"}
    first = write_answers(tmp_path / "a", WORSE, **few)
    second = write_answers(tmp_path / "b", GOOD, **few, draws_sha256="2" * 64)
    with pytest.raises(SettingsError, match="draws_sha256 is"):
        compare([first, second])
    third = write_answers(tmp_path / "c", WORSE)
    fourth = write_answers(tmp_path / "d", GOOD, draws_sha256="2" * 64)
    assert len(compare([third, fourth]).questions) == 1


def test_other_scored_questions_are_refused(tmp_path):
    first = write_answers(tmp_path / "a", WORSE)
    fewer = write_answers(tmp_path / "b", GOOD[:8])
    with pytest.raises(DataError, match=r"different questions \(10 and 8; id q8 on one side only\)"):
        compare([first, fewer])


@pytest.mark.parametrize(
    ("field", "value"), [("question", "Another?"), ("options", ["yes", "no", "perhaps"]), ("answer_index", 5)]
)
def test_the_same_id_with_other_content_is_refused(tmp_path, field, value):
    first = write_answers(tmp_path / "a", WORSE)
    second = write_answers(tmp_path / "b", GOOD, samples={field: value})
    with pytest.raises(DataError, match=f"{field} of id q"):
        compare([first, second])


def test_bos_as_each_tokenizer_has_it_is_noted(tmp_path):
    first = write_answers(tmp_path / "a", WORSE, bos=BOS)
    second = write_answers(tmp_path / "b", GOOD, model={"tokenizer_adds_bos": False})
    notes = compare([first, second]).questions[0].notes
    assert notes == ("BOS as each tokenizer has it: a BOS (id 1), b none",)


def test_another_id_of_bos_is_no_difference(tmp_path):
    first = write_answers(tmp_path / "a", WORSE, bos=BOS)
    second = write_answers(tmp_path / "b", GOOD, bos="BOS (id 128000)")
    assert compare([first, second]).questions[0].notes == ()


def test_another_context_length_is_noted_and_refused_where_it_cut_an_input(tmp_path):
    first = write_answers(tmp_path / "a", WORSE)
    longer = write_answers(tmp_path / "b", GOOD, context_length=2048)
    notes = compare([first, longer]).questions[0].notes
    assert notes == ("context length: a 512 tokens, b 2048; neither cut any",)
    cut = write_answers(tmp_path / "c", GOOD, truncated=1)
    with pytest.raises(SettingsError, match="context_length is 2048 in b and 512 in c"):
        compare([longer, cut])


def test_dtype_and_truncation_are_noted(tmp_path):
    first = write_answers(tmp_path / "a", WORSE)
    second = write_answers(tmp_path / "b", GOOD, truncated=2, model={"dtype": "bfloat16"})
    comparison = compare([first, second])
    text = "\n".join(comparison.lines())
    assert "dtype differs: a float32, b bfloat16" in text
    assert "inputs that lost their left end: a 0 (of 512 tokens at most), b 2 (of 512)" in text


def test_another_score_can_be_compared_and_a_missing_one_is_listed(tmp_path):
    first, second = write_answers(tmp_path / "a", WORSE), write_answers(tmp_path / "b", GOOD)
    cell = compare([first, second], score="letter_space_sum").questions[0]
    assert cell.score == "letter_space_sum"
    assert [one.correct for one in cell.accuracies] == [4, 4]  # always the first option
    with pytest.raises(SettingsError, match="score is 'acc_norm'; none of a, b has it"):
        compare([first, second], score="acc_norm")


def test_cells_of_one_side_only_are_listed(tmp_path):
    rows = build_samples(WORSE)
    cells = [(build_question_cell(rows, task=task), rows) for task in ("pubmedqa", "medqa")]
    first = write_run(tmp_path / "a", cells, [build_text_cell([-70.0, -80.0])])
    second = write_run(tmp_path / "b", cells[:1])
    comparison = compare([first, second])
    assert [cell.task for cell in comparison.questions] == ["pubmedqa"]
    assert [(item.task, item.reason) for item in comparison.not_compared] == [
        ("medqa", "b has not scored it"),
        ("pubmed-a", "b has not scored it"),
    ]
    assert "  medqa · paper · a, b: b has not scored it" in comparison.lines()


def test_results_with_nothing_in_common_are_refused_with_what_each_holds(tmp_path):
    first = write_answers(tmp_path / "a", WORSE)
    second = write_answers(tmp_path / "b", GOOD, task="medqa")
    with pytest.raises(DataError, match=r"nothing can be compared: .* two of a, b") as caught:
        compare([first, second])
    assert caught.value.hint == "They hold: a: pubmedqa under paper/1; b: medqa under paper/1."
    seeds = [write_answers(tmp_path / f"s{n}", GOOD, task=task, seed=n, model={"weights_sha256": "f" * 64})
             for n, task in enumerate(("medqa", "pubmedqa"))]  # fmt: skip
    with pytest.raises(DataError, match="nothing can be compared"):
        compare(seeds)


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"text": "u"}, DataError, "text_sha256"),
        ({"context_length": 1024}, SettingsError, "context_length is 512 in a and 1024 in b"),
        ({"prefix": "BOS (id 1)"}, SettingsError, "prefix"),
        ({"profile": "paper/2"}, SettingsError, "profile"),
    ],
)
def test_text_that_was_not_read_alike_is_refused(tmp_path, changes, error, field):
    first = write_texts(tmp_path / "a", [-70.0, -80.0])
    second = write_texts(tmp_path / "b", [-71.0, -82.0], **changes)
    with pytest.raises(error, match=f"pubmed-a under paper cannot be compared: {field}"):
        compare([first, second])


def test_the_prefix_may_have_another_id_in_another_vocabulary(tmp_path):
    first = write_texts(tmp_path / "a", [-70.0, -80.0])
    second = write_texts(tmp_path / "b", [-71.0, -82.0], prefix="EOS (id 50256)")
    assert compare([first, second]).texts[0].n == 2


def test_text_is_compared_in_bits_per_byte_and_words_for_the_published_rows_only(tmp_path):
    folders = [
        write_run(
            tmp_path / name,
            texts=[build_text_cell(values), build_text_cell(values, profile="clean/1")],
            tokenizer_fingerprint=name,
        )
        for name, values in (("a", [-70.0, -80.0]), ("b", [-60.0, -75.0]))
    ]
    published, clean = compare(folders).texts
    assert published.difference.value == pytest.approx(-15 / 200 / 0.6931471805599453)
    assert published.word_perplexity is not None
    assert clean.word_perplexity is None
    assert "token" not in json.dumps(clean.model_dump())


def write_seeds(tmp_path, name, answers):
    return [
        write_answers(
            tmp_path / f"{name}-seed{seed}", predictions, seed=seed, shots=1, draw_rule="per question",
            draws_sha256=str(seed) * 64, model={"weights_sha256": name * 8, "source": name},
        )
        for seed, predictions in enumerate(answers, start=1)
    ]  # fmt: skip


def test_seeds_of_one_model_are_summarised_and_not_tested(tmp_path):
    comparison = compare(write_seeds(tmp_path, "a", [GOOD, WORSE, GOOD]))
    assert comparison.questions == ()
    group = comparison.seeds[0]
    assert group.seeds == (1, 2, 3)
    assert group.summary.values == (1.0, 0.4, 1.0)
    assert group.summary.interval is not None
    text = "\n".join(comparison.lines())
    assert "mean 0.8000 ± 0.3464 (standard deviation of 3 seeds)" in text
    assert "95 % t-interval of the mean over seeds" in text


def test_two_models_with_seeds_are_compared_draw_by_draw(tmp_path):
    first = write_seeds(tmp_path, "a", [GOOD, WORSE, GOOD])
    second = write_seeds(tmp_path, "b", [WORSE, WORSE])
    comparison = compare([*first, *second])
    assert [(cell.first, cell.second) for cell in comparison.questions] == [
        ("a-seed1", "b-seed1"),
        ("a-seed2", "b-seed2"),
    ]
    assert [group.labels for group in comparison.seeds] == [
        ("a-seed1", "a-seed2", "a-seed3"),
        ("b-seed1", "b-seed2"),
    ]
    left_out = {item.labels: item.reason for item in comparison.not_compared}
    assert left_out["a-seed3",] == "no run of b-seed1 is left that has its few-shot draws"


def test_seeds_without_examples_change_nothing_and_are_compared_once(tmp_path):
    same = {"weights_sha256": "a" * 64}
    first = [write_answers(tmp_path / f"a{seed}", WORSE, seed=seed, model=same) for seed in (1, 2)]
    second = write_answers(tmp_path / "b", GOOD)
    comparison = compare([*first, second])
    assert len(comparison.questions) == 1
    assert comparison.seeds == ()
    assert comparison.not_compared[0].reason == "the seed changes nothing here: every answer is the same"


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path):
    first, second = write_answers(tmp_path / "x" / "run", WORSE), write_answers(tmp_path / "y" / "run", GOOD)
    cell = compare([first, second]).questions[0]
    assert (cell.first, cell.second) == (str(first), str(second))


def test_folders_that_cannot_be_compared_at_all_are_explained(tmp_path):
    first = write_answers(tmp_path / "a", WORSE)
    with pytest.raises(SettingsError, match="compare has 1 folder"):
        compare([first])
    with pytest.raises(SettingsError, match="twice"):
        compare([first, tmp_path / "a" / ".." / "a"])
    with pytest.raises(DataError, match="holds no results"):
        compare([first, tmp_path / "missing"])


@pytest.mark.parametrize("damage", ["drop", "repeat", "prediction", "syntax"])
def test_damaged_samples_are_told_with_their_file(tmp_path, damage):
    first, second = write_answers(tmp_path / "a", WORSE), write_answers(tmp_path / "b", GOOD)
    path = second / "samples-paper-pubmedqa.jsonl"
    lines = path.read_text().splitlines()
    if damage == "drop":
        lines = lines[:-1]
    elif damage == "repeat":
        lines[1] = lines[0]
    elif damage == "prediction":
        lines[1] = lines[1].replace('"prediction"', '"guess"')
    else:
        lines[1] = "{"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="samples-paper-pubmedqa"):
        compare([first, second])


def test_comparing_loads_no_model_library():
    code = (
        "import sys, biomedllama_cli.evaluation.comparison, biomedllama_cli.evaluation.protocol_difference\n"
        "print(sorted({'torch', 'transformers', 'lm_eval', 'statsmodels', 'matplotlib'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
