"""Defects of items are found, named and dropped only when asked for; sound items have none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from biomedllama_cli.tasks import audit
from biomedllama_cli.tasks.audit import drop_defective, find_defects
from biomedllama_cli.tasks.catalogue import TASKS, load_questions
from biomedllama_cli.tasks.question import Question

SOUND = Question("1", "Which metal carries oxygen in blood?", ("Zinc", "Iron", "Lead", "Tin"), 1)


def kinds(*items: Question) -> list[tuple[str, str]]:
    return [(defect.id, defect.kind) for defect in find_defects(items)]


def test_sound_items_have_no_defects():
    other = replace(SOUND, id="2", question="Which metal is liquid?", answer_index=0)
    same_words = replace(SOUND, id="3", context="Another abstract.")
    stem = replace(SOUND, id="4", options=("Gold", "Salt", "Neon", "Ice"), answer_index=2)
    genotypes = Question("5", "Which genotype is heterozygous?", ("AA", "Aa", "aa", "aA"), 1)
    items = [SOUND, other, same_words, stem, genotypes]
    assert find_defects(items) == ()
    assert drop_defective(items, ()) == tuple(items)


@pytest.mark.parametrize(
    ("item", "kind", "detail"),
    [
        (replace(SOUND, options=("Zinc", "Iron", " ", "Tin")), "blank_option", "option C is blank"),
        (
            replace(SOUND, options=("Zinc", "Iron", "Lead ", "lead")),
            "duplicate_options",
            "options C and D are the same text",
        ),
        (
            replace(SOUND, options=("IRON", "Iron", "iron", "Tin")),
            "answer_repeated",
            "options A, B and C are the same text, and only B counts as right",
        ),
        (replace(SOUND, context=""), "blank_context", "the context is blank"),
    ],
)
def test_defects_inside_an_item(item, kind, detail):
    (defect,) = find_defects([item])
    assert (defect.index, defect.id, defect.kind, defect.detail) == (0, "1", kind, detail)
    assert drop_defective([item], [defect]) == ()


def test_of_repeated_questions_the_later_one_has_the_defect():
    repeated = replace(SOUND, id="2", question="Which  metal carries OXYGEN in blood?")
    shuffled = replace(SOUND, id="3", options=("Tin", "Lead", "Iron", "Zinc"), answer_index=2)
    against = replace(SOUND, id="4", answer_index=0)
    overlapping = replace(SOUND, id="5", options=("Iron", "Gold", "Neon", "Ice"), answer_index=1)
    items = [SOUND, repeated, shuffled, against, overlapping]
    assert kinds(*items) == [
        ("2", "duplicate_question"),
        ("3", "duplicate_question"),
        ("4", "conflicting_answer"),
        ("5", "conflicting_answer"),
    ]
    assert find_defects(items)[0].detail == "the same as item 1 (number 1 of the list)"
    assert drop_defective(items, find_defects(items)) == (SOUND,)


def test_an_id_that_stands_twice_drops_the_later_item_alone():
    twin = replace(SOUND, question="Which metal is magnetic?")
    assert kinds(SOUND, twin) == [("1", "duplicate_id")]
    assert drop_defective([SOUND, twin], find_defects([SOUND, twin])) == (SOUND,)


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_answer_text_that_differs_is_a_defect_with_its_line_and_no_refusal(tmp_path, caplog):
    record = {
        "question": "Which metal?",
        "answer": "Iron",
        "options": {"A": "Zinc", "B": "Iron", "C": "Lead", "D": "Tin"},
        "answer_idx": "B",
    }
    wrong = record | {"question": "Which other?", "answer": "Lead"}
    blank = record | {"question": "Which third?", "options": record["options"] | {"D": ""}}
    path = write_lines(tmp_path / "test.jsonl", record, wrong, blank)
    loaded = load_questions(TASKS["medqa"], shots=0, test_file=path)
    assert [item.answer for item in loaded.items] == ["Iron", "Iron", "Iron"]
    assert [(defect.id, defect.kind) for defect in loaded.defects] == [
        ("1", "answer_text_differs"),
        ("2", "blank_option"),
    ]
    assert loaded.defects[0].detail == f"{path} line 2: field `answer` is not the text of option B"
    assert drop_defective(loaded.items, loaded.defects) == loaded.items[:1]
    assert caplog.text == ""
    load_questions(TASKS["medqa"], shots=1, test_file=path, train_file=path)
    assert "test.jsonl line 2: field `answer` is not the text of option B" in caplog.text  # of the pool


def test_bigbio_answer_that_differs_in_case_names_its_option(tmp_path):
    record = {"id": "test-1", "question": "Which?", "choices": ["Zinc", "Iron", "Lead", "Tin", "Gold"]}
    path = write_lines(tmp_path / "test.jsonl", record | {"answer": [" iron"]})
    loaded = load_questions(TASKS["medqa-5"], shots=0, test_file=path)
    assert loaded.items[0].answer == "Iron"
    assert [defect.kind for defect in loaded.defects] == ["answer_text_differs"]


def test_real_files_have_no_defects(shared_data):
    files = {
        "medqa-5": "medqa/test_5options_first640.jsonl",
        "medmcqa": "medmcqa/validation_first120.jsonl",
        "pubmedqa": "pubmedqa/ori_pqal_nontest500.json",
        "pubmedqa-no-context": "pubmedqa/ori_pqal_nontest500.json",
    }
    for name, file in files.items():
        assert load_questions(TASKS[name], shots=0, test_file=shared_data / file).defects == ()


def test_a_question_asked_very_often_is_compared_with_the_first_item_that_matters(monkeypatch):
    folded = []
    fold = audit.fold_text
    monkeypatch.setattr(audit, "fold_text", lambda text: folded.append(text) or fold(text))
    others = [
        replace(SOUND, id=f"o{number}", options=(f"w{number}", f"x{number}", f"y{number}", f"z{number}"))
        for number in range(100)
    ]
    against = replace(SOUND, id="against", options=("x5", "w7", "Salt", "Neon"), answer_index=1)
    twin = replace(others[40], id="twin")
    found = find_defects([*others, against, twin])
    assert [(defect.id, defect.kind, defect.detail.split(" (")[0]) for defect in found] == [
        ("against", "conflicting_answer", "the question of item o5"),
        ("twin", "duplicate_question", "the same as item o40"),
    ]
    assert len(folded) < 20 * len(others), "the work does not grow with the square of the items"
