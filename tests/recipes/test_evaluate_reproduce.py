"""`evaluate --reproduce` with weights and files at hand instead of the published ones."""

from __future__ import annotations

import logging

import pytest
from evaluation_runs import cell_of, read_samples, run, write_medqa, write_pubmedqa

from biomedllama_cli.errors import SettingsError, UnavailableError
from biomedllama_cli.evaluation.published import find_row, list_rows

ROW = "BioMed-LLaMA-7B 0-shot"


def test_a_row_is_run_as_far_as_there_is_data(tmp_path, model, caplog):
    data = [
        f"medqa={write_medqa(tmp_path / 'test.jsonl', 6)}",
        f"pubmedqa={write_pubmedqa(tmp_path / 'ori_pqal.json', test=5, other=4)}",
    ]
    tasks = [cell.task for cell in find_row(ROW).cells]
    report = run(tmp_path, model, reproduce=ROW, data=data)
    (found,) = report.reproductions
    verdicts = {cell.published.task: cell.verdict for cell in found.cells}
    assert list(verdicts) == tasks
    assert {task for task, verdict in verdicts.items() if verdict != "not run"} == {"medqa", "pubmedqa"}
    # Six made-up questions are not the published 1,273.
    assert verdicts["medqa"] == verdicts["pubmedqa"] == "incomplete"
    reasons = {cell.published.task: cell.reason for cell in found.cells if cell.verdict == "not run"}
    assert all(reasons.values())
    assert found.precision_error > 0
    assert report.evaluations[0].results.seed == 42
    text = "\n".join(report.lines())
    assert ROW in text
    assert "not run" in text
    assert "medmcqa is left out" in caplog.text


def test_shots_and_profile_are_those_of_the_row(tmp_path, model):
    row = next(row for row in list_rows().rows if row.is_model and any(cell.shots for cell in row.cells))
    published = next(cell for cell in row.cells if cell.shots and cell.task == "medqa")
    data = [
        f"medqa={write_medqa(tmp_path / 'test.jsonl', 4)}",
        f"medqa.train={write_medqa(tmp_path / 'train.jsonl', 30, start=40)}",
    ]
    report = run(tmp_path, model, reproduce=row.name, task=["medqa"], data=data)
    cell = cell_of(report, "medqa", published.profile)
    assert cell.facts.shots == published.shots
    assert {len(sample["example_ids"]) for sample in read_samples(tmp_path, "medqa", published.profile)} == {
        published.shots
    }
    assert [one.published.task for one in report.reproductions[0].cells if one.verdict != "not run"] == [
        "medqa"
    ]


def test_several_weights_are_judged_each(tmp_path, tiny_models):
    data = [f"medqa={write_medqa(tmp_path / 'test.jsonl', 4)}"]
    models = [tiny_models.plain, tiny_models.other]
    report = run(tmp_path, models, reproduce=ROW, task=["medqa"], data=data)
    assert [one.model.source for one in report.reproductions] == list(map(str, models))


def test_without_any_data_the_files_are_asked_for(tmp_path, model):
    with pytest.raises(UnavailableError, match="no task of the row could be read") as error:
        run(tmp_path, model, reproduce=ROW)
    assert "--data TASK=FILE" in error.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("BioMed-LLaMA-7B 0-shott", "published tables do not have"), ("chance", "nothing to run|do not have")],
)
def test_rows_that_cannot_be_run_are_refused(tmp_path, model, name, message):
    with pytest.raises(SettingsError, match=message):
        run(tmp_path, model, reproduce=name)


@pytest.mark.parametrize(
    "asked",
    [{"profile": ["clean"]}, {"shots": 3}, {"seed": 7}, {"draw": "fixed"}, {"context_length": 512}],
    ids=lambda asked: next(iter(asked)),
)
def test_what_the_row_fixes_cannot_be_asked_otherwise(tmp_path, model, asked):
    with pytest.raises(SettingsError, match=f"{next(iter(asked))} is .*which fixes it"):
        run(tmp_path, model, reproduce=ROW, **asked)


def test_a_dry_run_shows_the_tasks_of_the_row(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        report = run(tmp_path, None, reproduce=ROW, dry_run=True)
    assert [one.task for one in report.planned] == [cell.task for cell in find_row(ROW).cells]
    assert report.models == (find_row(ROW).hub_id,)
    assert list(tmp_path.iterdir()) == []
