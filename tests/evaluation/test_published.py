"""The published tables as data: every printed value, what it counts, and how rows are named and listed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.evaluation.published import (
    PublishedCell,
    PublishedRow,
    counts_of,
    find_row,
    half_of_last_digit,
    list_rows,
)

TASKS = ("pubmed-abstracts", "pubmed-central", "medqa", "medqa-5", "medmcqa", "pubmedqa")
QUESTIONS = TASKS[2:]
FOUR_OPTIONS = ("medqa", "medmcqa", "pubmedqa")

# Read off the README independently of the data file: values in the order of its columns.
PRINTED = {
    "Random": (QUESTIONS, "0.25 0.5 0.25 0.33"),
    "GPT-Neo-2.7B 0-shot": (TASKS, "19.1207 20.8701 0.2781 0.2412 0.2570 0.5640"),
    "BioMedLM-2.7B 0-shot": (TASKS, "15.6959 18.6799 0.2993 0.2624 0.2744 0.5520"),
    "LLaMA-7B 0-shot": (TASKS, "20.1107 29.0583 0.3339 0.2742 0.2933 0.7520"),
    "PMC-LLaMA-7B 0-shot": (TASKS, "36.8191 39.5381 0.3441 0.2883 0.2850 0.6640"),
    "BioMed-LLaMA-7B 0-shot": (TASKS, "15.7774 20.9322 0.3535 0.3032 0.2921 0.6160"),
    "LLaMA-7B few-shot": (QUESTIONS, "0.3661 0.3174 0.2991 0.713"),
    "BioMed-LLaMA-7B few-shot": (QUESTIONS, "0.3668 0.3229 0.3007 0.702"),
    "LLaMA-7B fine-tuned": (FOUR_OPTIONS, "0.3946 0.4994 0.764"),
    "BioMed-LLaMA-7B fine-tuned": (FOUR_OPTIONS, "0.4072 0.5357 0.763"),
    "LLaMA-7B instructed": (FOUR_OPTIONS, "0.4391 0.4236 0.744"),
    "BioMed-LLaMA-7B instructed": (FOUR_OPTIONS, "0.487 0.4475 0.757"),
}
COUNTS = {
    "GPT-Neo-2.7B 0-shot": (354, 307, 1075, 564),
    "BioMedLM-2.7B 0-shot": (381, 334, 1148, 552),
    "LLaMA-7B 0-shot": (425, 349, 1227, 752),
    "PMC-LLaMA-7B 0-shot": (438, 367, 1192, 664),
    "BioMed-LLaMA-7B 0-shot": (450, 386, 1222, 616),
    "LLaMA-7B few-shot": (466, 404, 1251, 713),
    "BioMed-LLaMA-7B few-shot": (467, 411, 1258, 702),
    "LLaMA-7B fine-tuned": (None, 2089, 764),
    "BioMed-LLaMA-7B fine-tuned": (None, 2241, 763),
    "LLaMA-7B instructed": (559, 1772, 744),
    "BioMed-LLaMA-7B instructed": (620, 1872, 757),
}
ROWS = list_rows().rows
MODEL_ROWS = [row for row in ROWS if row.is_model]


def cell_of(row: PublishedRow, task: str) -> PublishedCell:
    return next(cell for cell in row.cells if cell.task == task)


def test_the_tables_have_twelve_rows_and_fifty_model_cells() -> None:
    assert [row.name for row in ROWS] == list(PRINTED)
    assert len(ROWS) == 12
    assert len(MODEL_ROWS) == 11
    assert sum(len(row.cells) for row in MODEL_ROWS) == 50


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_value_is_as_printed(row: PublishedRow) -> None:
    tasks, values = PRINTED[row.name]
    assert [(cell.task, cell.value) for cell in row.cells] == list(zip(tasks, values.split(), strict=True))


@pytest.mark.parametrize("row", MODEL_ROWS, ids=lambda row: row.name)
def test_every_accuracy_is_one_count_of_all_questions(row: PublishedRow) -> None:
    questions = [cell for cell in row.cells if cell.task in QUESTIONS]
    for cell, count in zip(questions, COUNTS[row.name], strict=True):
        assert cell.n == {"medqa": 1273, "medqa-5": 1273, "medmcqa": 4183, "pubmedqa": 1000}[cell.task]
        if count is None:
            assert cell.counts == ()
            continue
        assert cell.counts == (count,)
        digits = len(cell.value) - 2
        rounding = [k for k in range(cell.n + 1) if f"{k / cell.n:.{digits}f}" == cell.value]
        assert rounding == [count]


def test_the_fine_tuned_means_of_medqa_are_no_counts_of_one_run() -> None:
    means = [cell_of(row, "medqa") for row in ROWS if row.name.endswith("fine-tuned")]
    assert [cell.printed for cell in means] == ["0.3946 ± 0.008", "0.4072 ± 0.012"]
    for cell in means:
        assert counts_of(cell.value, 1273) == ()
        assert "not explained" in " ".join(cell.notes)


def test_perplexities_have_no_count() -> None:
    texts = [cell for row in MODEL_ROWS for cell in row.cells if cell.task not in QUESTIONS]
    assert len(texts) == 10
    assert {(cell.n, cell.counts, cell.metrics) for cell in texts} == {(None, (), ("word_perplexity",))}


def test_shots_differ_per_task_in_the_few_shot_rows_alone() -> None:
    for row in MODEL_ROWS:
        shots = [cell.shots for cell in row.cells]
        assert shots == ([3, 3, 10, 1] if row.name.endswith("few-shot") else [0] * len(shots))


def test_each_strategy_has_its_profile_and_scores() -> None:
    for row in MODEL_ROWS:
        for cell in row.cells:
            generated = {"fine-tuned": "finetuned", "instructed": "instructed"}.get(row.name.split()[-1])
            assert cell.profile == (generated or "paper")
            if generated:
                assert cell.metrics == ("exact_match",)
            elif cell.task == "pubmedqa":
                assert cell.metrics == ("acc",)
            elif cell.task in QUESTIONS:
                assert cell.metrics == ("acc", "acc_norm")


def test_biomedlm_alone_ran_at_1024_tokens_and_its_perplexity_says_so() -> None:
    lengths = {row.name: {cell.context_length for cell in row.cells} for row in MODEL_ROWS}
    short = "BioMedLM-2.7B 0-shot"
    assert lengths.pop(short) == {1024}
    assert set(map(tuple, lengths.values())) == {(2048,)}
    assert "not comparable" in cell_of(find_row(short), "pubmed-central").notes[0]


def test_public_weights_are_named_and_tuned_ones_were_never_published() -> None:
    ids = {row.name.split()[0]: row.hub_id for row in MODEL_ROWS if cell_of(row, "medqa").profile == "paper"}
    assert ids == {
        "GPT-Neo-2.7B": "EleutherAI/gpt-neo-2.7B",
        "BioMedLM-2.7B": "stanford-crfm/BioMedLM",
        "LLaMA-7B": "huggyllama/llama-7b",
        "PMC-LLaMA-7B": "chaoyi-wu/PMC_LLAMA_7B",
        "BioMed-LLaMA-7B": "forestai/biomed-llama-7b",
    }
    for row in MODEL_ROWS:
        tuned = row.name.endswith(("fine-tuned", "instructed"))
        assert (row.hub_id is None, row.weights == "none") == (tuned, tuned)
        assert row.precision == "fp16"


def test_chance_for_five_options_says_what_is_meant() -> None:
    random = find_row("random")
    assert "0.2 is meant" in cell_of(random, "medqa-5").notes[-1]
    assert all(cell.counts == () and cell.profile is None for cell in random.cells)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("BioMed-LLaMA-7B 0-shot", "BioMed-LLaMA-7B 0-shot"),
        ("  biomed-llama-7b   0-SHOT ", "BioMed-LLaMA-7B 0-shot"),
        ("LLaMA-7B, zero-shot", "LLaMA-7B 0-shot"),
        ("GPT-Neo (2.7B) 0-shot", "GPT-Neo-2.7B 0-shot"),
        ("LLaMA-7B fine-tune", "LLaMA-7B fine-tuned"),
        ("biomed llama 7b instructed", "BioMed-LLaMA-7B instructed"),
    ],
)
def test_a_row_is_found_whatever_its_case_spaces_and_hyphens(given: str, name: str) -> None:
    assert find_row(given).name == name


def test_an_unknown_row_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(SettingsError, match="'BioMed-LLaMA-7B 5-shot'") as caught:
        find_row("BioMed-LLaMA-7B 5-shot")
    assert '"BioMed-LLaMA-7B 0-shot"' in caught.value.hint
    with pytest.raises(SettingsError) as caught:
        find_row("???")
    assert caught.value.hint == "--reproduce list shows all."


def test_a_value_that_several_counts_round_to_keeps_them_all() -> None:
    assert counts_of("0.71", 1000) == tuple(range(705, 716))
    assert counts_of("0.3", 1) == ()
    assert counts_of("1.0", 10) == (10,)
    assert counts_of("0.0", 10) == (0,)


def test_half_of_the_last_digit_follows_the_printed_digits() -> None:
    assert float(half_of_last_digit("0.487")) == 0.0005
    assert float(half_of_last_digit("0.2570")) == 0.00005


def test_the_list_shows_every_cell_its_weights_and_how_to_run_it() -> None:
    lines = list_rows().lines()
    text = "\n".join(lines)
    assert [line for line in lines if line in PRINTED] == list(PRINTED)
    assert 'biomedllama evaluate --reproduce "BioMed-LLaMA-7B 0-shot"\n' in text
    assert '--reproduce "LLaMA-7B fine-tuned" --model WEIGHTS' in text
    assert "weights: EleutherAI/gpt-neo-2.7B (public)" in text
    assert "forestai/biomed-llama-7b (named by the original code; no public page of it is known)" in text
    row = next(line for line in lines if "0.3535" in line)
    assert " ".join(row.split()) == (
        "medqa 0.3535 450/1273 shots 0 profile paper, context 2048 acc or acc_norm"
    )
    assert all(f"{count}/" in text for counts in COUNTS.values() for count in counts if count)
    assert "0.3946 ± 0.008" in text


def test_the_list_as_json_is_versioned_and_holds_the_counts() -> None:
    answer = list_rows().model_dump(mode="json")
    assert answer["schema_version"] == "biomedllama.published/1"
    assert answer["source"].startswith("https://github.com/Coldog2333/BioMed-LLaMA")
    cell = answer["rows"][5]["cells"][2]
    assert (cell["task"], cell["value"], cell["counts"], cell["n"]) == ("medqa", "0.3535", [450], 1273)


def test_the_list_loads_no_heavy_library() -> None:
    code = (
        "import sys; from biomedllama_cli.evaluation import published; published.list_rows().lines(); "
        "print(sorted({'torch', 'transformers', 'lm_eval', 'datasets', 'scipy', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
