"""`finetune` up to its first step: which questions are taken, how they are shown, and what a dry run says."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from evaluation_runs import write_medqa
from transformers import AutoTokenizer
from tuning_runs import RIGHT, list_files, make_question, run_finetune, write_lines, write_questions


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("task") / "boxes.jsonl", 64)


def test_masks_are_shown_and_nothing_else_happens(tmp_path: Path, model: Path, task: Path) -> None:
    report = run_finetune(tmp_path, model, task, show_masks=3)
    assert list_files(tmp_path) == []
    content = json.loads(report.model_dump_json())
    assert len(content["rows"]) == 3
    eos = AutoTokenizer.from_pretrained(model).eos_token
    for number, row in enumerate(content["rows"]):
        assert row["id"] == make_question(number)["id"]
        assert row["trained_text"] == f" {RIGHT}{eos}"
        places = [place for place, trained in enumerate(row["trained"]) if trained]
        assert all(right - left == 1 for left, right in pairwise(places))
        assert places[-1] == len(row["token_ids"]) - 1
    assert f"[[ {RIGHT}{{{eos}}}]]" in "\n".join(report.lines())


def test_masks_that_are_piped_have_the_line_ends_of_the_text_alone(tmp_path: Path, model: Path) -> None:
    asked = "What stands on the shelf behind the box, " * 3 + "and why?"
    task = write_lines(tmp_path / "task.jsonl", [{**make_question(0), "question": asked}])
    report = run_finetune(tmp_path / "out", model, task, show_masks=1)
    assert f"### Question: {asked}" in "\n".join(report.lines())
    assert report.view == "\n".join(report.lines()) + "\n"


def test_a_dry_run_writes_nothing(tmp_path: Path, model: Path, task: Path) -> None:
    report = run_finetune(tmp_path, model, task, dry_run=True, seeds="3,4")
    assert list_files(tmp_path) == []
    assert [(run.status, run.steps) for run in report.runs] == [("would train", 4)] * 2
    assert report.data.examples == 64
    assert report.lines()[-1] == "Nothing was written."


def test_only_so_many_questions_are_trained_on_the_same_for_every_seed(
    tmp_path: Path, model: Path, task: Path
) -> None:
    few, other = (
        run_finetune(tmp_path, model, task, questions={"limit": 10}, seeds=seed, show_masks=20)
        for seed in ("0", "5")
    )
    assert len(few.rows) == 10
    assert [row["id"] for row in few.rows] == [row["id"] for row in other.rows]


def test_cleaned_data_leave_defective_questions_out(tmp_path: Path, model: Path) -> None:
    data = (f"medqa.train={write_medqa(tmp_path / 'train.jsonl', 20, repeated=[3, 8])}",)
    published, cleaned = (
        run_finetune(
            tmp_path / version,
            model,
            "medqa",
            questions={"data": data, "data_version": version},
            duration={"max_steps": 1},
        )
        for version in ("published", "cleaned")
    )
    assert (published.data.examples, published.data.dropped_defective) == (20, 0)
    assert (cleaned.data.examples, cleaned.data.dropped_defective) == (18, 2)
    audit = json.loads((cleaned.runs[0].run_folder / "training_audit.json").read_text())
    assert (audit["records"], audit["questions"], audit["dropped"]) == (20, 18, 2)
    assert "2 questions left out" in "\n".join(cleaned.lines())


def test_what_is_to_be_known_of_a_training_set_is_said(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = [
        {
            "pubid": number,
            "question": f"Does drug {number} help?",
            "context": {"contexts": [f"It was given to {number} patients."]},
            "final_decision": ("yes", "no")[number % 2],
            "long_answer": "It did.",
        }
        for number in range(10, 20)
    ]
    file = write_lines(tmp_path / "train.jsonl", records)
    run_finetune(tmp_path, model, "pubmedqa", dry_run=True, questions={"data": (f"pubmedqa.train={file}",)})
    assert "pubmedqa: no question has the answer maybe" in caplog.text


def test_test_questions_are_taken_out_of_the_training_questions(tmp_path: Path, model: Path) -> None:
    test = write_questions(tmp_path / "test.jsonl", 4, seed=1)
    records = [make_question(number) for number in range(20)]
    records[5:7] = [make_question(number, seed=1) for number in range(2)]
    task = write_lines(tmp_path / "task.jsonl", records)
    report = run_finetune(
        tmp_path,
        model,
        task,
        questions={"test": test},
        decontamination={"decontaminate": "drop"},
        duration={"max_steps": 1},
    )
    assert (report.data.examples, report.data.dropped_contaminated) == (18, 2)
    assert report.data.contaminated == {"questions": 2}
    assert report.data.not_looked_for == ("medqa", "medmcqa", "pubmedqa")
    found = (report.runs[0].run_folder / "contamination.jsonl").read_text().splitlines()
    assert [json.loads(line)["documents"][0]["where"] for line in found] == ["task q1-0", "task q1-1"]
    assert "2 examples left out" in "\n".join(report.lines())
