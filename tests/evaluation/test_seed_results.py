"""Results folders before and after training: folds pooled, other questions or other prompts refused."""

from __future__ import annotations

import pytest
from comparison_folders import build_question_cell, build_samples, write_run

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.seed_results import SeedGains, load_gains

GOOD = [row % 3 for row in range(12)]
"""All twelve answers right."""
POOR = [(row + (row % 2)) % 3 for row in range(12)]
"""Every other one wrong."""


def write(folder, predictions, *, fold=None, folds=1, **facts):
    """Write a folder of the questions of a fold: those whose number leaves `fold` when divided by `folds`."""
    rows = build_samples(predictions)
    if fold is not None:
        rows = [row for number, row in enumerate(rows) if number % folds == fold]
        facts = {"items_sha256": str(fold) * 64, **facts}
    return write_run(folder, [(build_question_cell(rows, **facts), rows)])


def test_one_row_of_numbers_per_task_with_its_seeds(tmp_path):
    before = write(tmp_path / "before", POOR, fixed_labels=True)
    after = {seed: [write(tmp_path / f"s{seed}", GOOD, fixed_labels=True)] for seed in (0, 1, 2)}
    gains = load_gains([before], after)
    (cell,) = gains.cells
    assert (cell.task, cell.profile, cell.score, cell.n, cell.folds) == ("pubmedqa", "paper/1", "acc", 12, 1)
    assert (cell.before.accuracy.correct, cell.before.seed) == (6, None)
    assert [(score.seed, score.accuracy.correct) for score in cell.after] == [(0, 12), (1, 12), (2, 12)]
    assert cell.gain.difference.value == pytest.approx(0.5)
    assert cell.gain.p_value == pytest.approx(2 / 2**6)
    assert cell.random == pytest.approx(1 / 3)
    assert cell.majority == pytest.approx(1 / 3)
    assert cell.after[0].macro_f1 == 1
    assert cell.before.macro_f1 == pytest.approx(0.5, abs=0.2)
    assert cell.before.predicted_labels == {"yes": 1, "no": 1, "maybe": 1}
    assert SeedGains.model_validate_json(gains.model_dump_json()) == gains


def test_folds_are_pooled_in_any_order(tmp_path):
    whole_before = write(tmp_path / "before", POOR)
    whole_after = write(tmp_path / "after", GOOD[:6] + POOR[6:])
    folds = {}
    for name, answers in (("before", POOR), ("after", GOOD[:6] + POOR[6:])):
        folds[name] = [write(tmp_path / f"{name}{k}", answers, fold=k, folds=3) for k in range(3)]
    (pooled,) = load_gains(folds["before"], {0: folds["after"], 1: folds["after"]}).cells
    (whole,) = load_gains([whole_before], {0: [whole_after], 1: [whole_after]}).cells
    assert pooled.folds == 3
    assert pooled.gain.difference.value == whole.gain.difference.value
    assert pooled.gain.p_value == whole.gain.p_value
    assert pooled.before.accuracy == whole.before.accuracy
    assert pooled.random == pytest.approx(whole.random)
    assert len(pooled.after[0].folders) == 3


def test_a_question_in_two_folds_is_refused(tmp_path):
    before = [write(tmp_path / f"b{k}", POOR, fold=0, folds=2) for k in range(2)]
    with pytest.raises(DataError, match="id q0 is in before, fold 2 and in an earlier fold"):
        load_gains(before, {0: before})


def test_a_missing_fold_is_refused(tmp_path):
    before = [write(tmp_path / f"b{k}", POOR, fold=k, folds=2) for k in range(2)]
    with pytest.raises(SettingsError, match="seed 4 has 1 results folders; before training there are 2"):
        load_gains(before, {4: before[:1]})


def test_folds_in_another_order_are_refused(tmp_path):
    before = [write(tmp_path / f"b{k}", POOR, fold=k, folds=2) for k in range(2)]
    with pytest.raises(DataError, match="items_sha256"):
        load_gains(before, {0: before[::-1]})


def test_prompts_in_another_template_are_refused(tmp_path):
    generation = {"max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "chains": 1, "backend": "hf"}
    before = write(tmp_path / "before", POOR, generation=generation)  # as written before there were templates
    same = write(tmp_path / "same", GOOD, generation={**generation, "template": "plain"})
    (cell,) = load_gains([before], {0: [same]}).cells
    assert cell.template == "plain"
    other = write(tmp_path / "other", GOOD, generation={**generation, "template": "chat"})
    with pytest.raises(
        SettingsError, match=r"generation\.template is 'plain' in before and 'chat' in seed 0"
    ) as caught:
        load_gains([before], {0: [other]})
    assert caught.value.hint == "Evaluate both with the same --template."


def test_folds_asked_in_different_ways_are_refused(tmp_path):
    folds = [write(tmp_path / f"b{k}", POOR, fold=k, folds=2, shots=k) for k in range(2)]
    with pytest.raises(SettingsError, match="shots is 0 in before, fold 1 and 1 in before, fold 2"):
        load_gains(folds, {0: folds})


def test_unparsed_answers_are_bounded(tmp_path):
    rows = build_samples(POOR)
    generation = {"max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "chains": 2, "backend": "hf"}
    cell = build_question_cell(rows, generation=generation)
    cell = cell.model_copy(update={"metrics": cell.metrics.model_copy(update={"unparsed": 3})})
    folder = write_run(tmp_path / "run", [(cell, rows)])
    score = load_gains([folder], {0: [folder]}).cells[0].before
    assert (score.unparsed, score.generated) == (3, 24)
    assert score.unparsed_bound == pytest.approx(0.3100, abs=1e-4)


def test_tasks_that_only_some_have_are_named(tmp_path):
    rows = build_samples(POOR)
    cells = [(build_question_cell(rows, task=task), rows) for task in ("pubmedqa", "medqa")]
    both, one = write_run(tmp_path / "both", cells), write_run(tmp_path / "one", cells[:1])
    gains = load_gains([both], {0: [one]})
    assert [cell.task for cell in gains.cells] == ["pubmedqa"]
    assert gains.left_out == ("medqa under paper",)
    with pytest.raises(DataError, match="nothing can be compared"):
        load_gains([one], {0: [write_run(tmp_path / "other", cells[1:])]})


def test_a_score_that_is_not_there_is_refused_with_those_there_are(tmp_path):
    folder = write(tmp_path / "run", POOR)
    assert load_gains([folder], {0: [folder]}, score="letter_space_sum").cells[0].score == "letter_space_sum"
    with pytest.raises(SettingsError, match="score is 'f1'") as caught:
        load_gains([folder], {0: [folder]}, score="f1")
    assert "letter_space_sum" in caught.value.hint


def test_another_context_length_is_refused_where_it_cut_prompts_of_generated_answers(tmp_path):
    generation = {"max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "chains": 1, "backend": "hf"}
    rows = build_samples(POOR)

    def write_cut(name: str, prompts: int, context_length: int):
        cell = build_question_cell(rows, generation=generation, context_length=context_length)
        metrics = cell.metrics.model_copy(update={"truncated_prompts": prompts})
        return write_run(tmp_path / name, [(cell.model_copy(update={"metrics": metrics}), rows)])

    whole, cut, longer = write_cut("a", 0, 512), write_cut("b", 2, 512), write_cut("c", 0, 2048)
    assert load_gains([whole], {0: [longer]}).cells
    assert load_gains([whole], {0: [cut]}).cells
    with pytest.raises(SettingsError, match="context_length is 2048 in before and 512 in seed 0"):
        load_gains([longer], {0: [cut]})
