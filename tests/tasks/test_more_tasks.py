"""Groups, MedXpertQA, BioASQ, MMLU, PubMedQA without context and any text; wrong files are named in one sentence."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.provenance import hash_items
from biomedllama_cli.tasks.catalogue import TASKS, load_documents, load_questions
from biomedllama_cli.tasks.question import Question

MEDQA = {
    "question": "Which metal?",
    "answer": "Iron",
    "options": {"A": "Zinc", "B": "Iron", "C": "Lead", "D": "Tin"},
    "meta_info": "step2&3",
    "answer_idx": "B",
}
MEDQA_5 = MEDQA | {"options": MEDQA["options"] | {"E": "Gold"}}
MEDMCQA = {
    "id": "a",
    "question": "Which?",
    "opa": "Zinc",
    "opb": "Iron",
    "opc": "Lead",
    "opd": "Tin",
    "cop": 0,
}
MEDXPERTQA = {
    "id": "Text-7",
    "question": "Which metal?\nAnswer Choices: (A) Zinc (B) Iron (C) Lead",
    "options": {"A": "Zinc", "B": "Iron", "C": "Lead"},
    "label": "B",
    "medical_task": "Basic Science",
    "body_system": "Cardiovascular",
    "question_type": "Understanding",
}
BIOASQ = {
    "id": "5503",
    "type": "yesno",
    "body": "Is iron a metal?",
    "exact_answer": "yes",
    "ideal_answer": ["Yes, it is."],
    "snippets": [{"text": "Iron is a metal.", "document": "http://example.org/1"}, {"text": "So is tin."}],
    "documents": [],
}
PUBMEDQA = {
    "QUESTION": "Does it?",
    "CONTEXTS": ["First.", "Second."],
    "final_decision": "yes",
    "LONG_ANSWER": "It does.",
}


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def read(task: str, path: Path) -> tuple[Question, ...]:
    return load_questions(TASKS[task], shots=0, test_file=path).items


def test_groups_are_what_the_data_says(tmp_path):
    (medqa,) = read("medqa", write_lines(tmp_path / "a.jsonl", MEDQA))
    assert medqa.groups == (("step", "step2&3"),)
    grouped = MEDMCQA | {"subject_name": "Anatomy", "topic_name": "Thorax"}
    first, second, third = read(
        "medmcqa",
        write_lines(
            tmp_path / "b.jsonl",
            grouped,
            MEDMCQA | {"id": "b", "subject_name": "Dental", "topic_name": None},
            MEDMCQA | {"id": "c", "subject_name": None},
        ),
    )
    assert first.groups == (("subject", "Anatomy"), ("topic", "Thorax"))
    assert (second.groups, third.groups) == ((("subject", "Dental"),), ())
    mmlu = {"question": "Which?", "choices": ["a", "b"], "answer": "B", "subject": "anatomy"}
    items = read("mmlu-medical", write_lines(tmp_path / "c.jsonl", mmlu, mmlu | {"subject": "astronomy"}))
    assert [(item.id, item.answer, item.groups) for item in items] == [
        ("anatomy-0", "b", (("subject", "anatomy"),))
    ]


def test_real_files_name_their_groups_where_they_have_any(shared_data):
    steps = [item.groups for item in read("medqa-5", shared_data / "medqa" / "test_5options_first640.jsonl")]
    assert set(steps) == {(("step", "step1"),), (("step", "step2&3"),)}
    medmcqa = read("medmcqa", shared_data / "medmcqa" / "validation_first120.jsonl")
    assert {item.groups for item in medmcqa} == {()}


def test_medxpertqa_question_comes_without_the_copy_of_its_options(tmp_path):
    options = {letter: f"Metal {letter}" for letter in "ABCDEFGHIJ"}
    ten = MEDXPERTQA | {"id": None, "options": options, "label": "J", "question": "Which?"}
    first, second = read("medxpertqa", write_lines(tmp_path / "test.jsonl", MEDXPERTQA, ten))
    assert first == Question(
        "Text-7",
        "Which metal?",
        ("Zinc", "Iron", "Lead"),
        1,
        groups=(
            ("medical_task", "Basic Science"),
            ("body_system", "Cardiovascular"),
            ("question_type", "Understanding"),
        ),
    )
    assert (second.id, second.answer, len(second.options)) == ("1", "Metal J", 10)
    listed = MEDXPERTQA | {"options": [{"key": "A", "value": "Zinc"}, {"key": "B", "value": "Iron"}]}
    assert read("medxpertqa", write_lines(tmp_path / "list.jsonl", listed))[0].options == ("Zinc", "Iron")


def test_bioasq_keeps_yes_no_questions_with_their_snippets(tmp_path, caplog):
    content = {
        "questions": [
            {"id": "1", "type": "factoid", "body": "What?", "exact_answer": [["Iron"]]},
            BIOASQ,
            BIOASQ | {"id": "2", "exact_answer": ["No"], "snippets": [], "ideal_answer": "No."},
            {"id": "3", "type": "summary", "body": "Tell.", "ideal_answer": []},
            {"id": "4", "type": "factoid", "body": "Who?", "exact_answer": []},
        ]
    }
    with caplog.at_level(logging.INFO, logger="biomedllama_cli"):
        loaded = load_questions(
            TASKS["bioasq-yesno"], shots=0, test_file=write_json(tmp_path / "training.json", content)
        )
    first, second = loaded.items
    assert first == Question(
        "5503", "Is iron a metal?", ("yes", "no"), 0, "Iron is a metal.\nSo is tin.", "Yes, it is."
    )
    assert (second.answer, second.context, second.long_answer) == ("no", "", "No.")
    assert [(defect.id, defect.kind) for defect in loaded.defects] == [("2", "blank_context")]
    assert "2 factoid, 1 summary" in caplog.text
    assert read("bioasq-yesno", write_lines(tmp_path / "lines.jsonl", BIOASQ)) == (first,)


def test_pubmedqa_without_context_asks_the_same_questions(tmp_path):
    path = write_json(tmp_path / "ori_pqal.json", {"7": PUBMEDQA})
    (shown,), (bare,) = read("pubmedqa", path), read("pubmedqa-no-context", path)
    assert (shown.context, bare.context) == ("First.\nSecond.", None)
    assert (bare.id, bare.question, bare.answer, bare.long_answer) == ("7", "Does it?", "yes", "It does.")
    prompt = TASKS["pubmedqa-no-context"].prompt
    assert prompt.ask(bare) == "Question: Does it?\nAnswer:"
    assert TASKS["pubmedqa"].prompt.ask(shown) == "Abstract: First.\nSecond.\nQuestion: Does it?\nAnswer:"


def test_any_text_is_scored_whatever_its_meta(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl", {"text": "One.", "meta": {"pile_set_name": "ArXiv"}}, {"text": "Two."}
    )
    assert [document.text for document in load_documents(TASKS["text"], test_file=path).items] == [
        "One.",
        "Two.",
    ]
    (tmp_path / "b.txt").write_text("Three.\nFour.")
    assert load_documents(TASKS["text"], test_file=tmp_path / "b.txt").items[0].text == "Three.\nFour."
    with pytest.raises(DataError, match="text has no data on the hub") as error:
        load_documents(TASKS["text"])
    assert error.value.hint == "Add --data text=FILE."
    with pytest.raises(DataError, match="bioasq-yesno has no data on the hub"):
        load_questions(TASKS["bioasq-yesno"], shots=0)


def test_hash_of_items_depends_on_their_content_alone(tmp_path):
    first = read("medqa", write_lines(tmp_path / "a.jsonl", MEDQA))
    second = read("medqa", write_lines(tmp_path / "b.jsonl", MEDQA))
    assert hash_items(first) == hash_items(second)


@pytest.mark.parametrize(
    ("task", "record", "message", "hint"),
    [
        ("medmcqa", MEDQA, "line 1: field `cop` is missing", "--task medqa "),
        ("medmcqa", MEDQA_5, "line 1: field `cop` is missing", "--task medqa-5 --data medqa-5=FILE"),
        ("medqa", MEDMCQA, "line 1: field `options` is missing", "--task medmcqa "),
        ("medqa", {"10": PUBMEDQA}, "entry 10: field `options` is missing", "--task pubmedqa "),
        ("pubmedqa", BIOASQ, "field `context` is missing", "--task bioasq-yesno "),
        ("pubmedqa", {"questions": [BIOASQ]}, "field `context` is missing", "--task bioasq-yesno "),
        ("medqa", MEDXPERTQA, "field `answer_idx` is missing", "--task medxpertqa "),
        ("text", MEDQA, "field `text` is missing", "--task medqa "),
        ("medqa", {"text": "A document."}, "field `options` is missing", "--task text "),
        ("medqa", {"question": "Which?", "answer": "b"}, "field `options` is missing", "The record has:"),
        ("medqa", {"data": [MEDQA]}, "field `options` is missing", "The record has: data."),
        ("bioasq-yesno", {"questions": "a"}, "field `questions` is str", ""),
        ("bioasq-yesno", {"questions": ["a"]}, "questions[0]: a question is str", ""),
        ("bioasq-yesno", BIOASQ | {"exact_answer": []}, "field `exact_answer` is []", "test phase"),
        ("bioasq-yesno", BIOASQ | {"exact_answer": "maybe"}, "field `exact_answer` is 'maybe'", ""),
        ("bioasq-yesno", BIOASQ | {"snippets": [{"body": "x"}]}, "field `snippets` must hold texts", ""),
        (
            "medxpertqa",
            MEDXPERTQA | {"images": ["a.jpg"]},
            "field `images` names pictures",
            "Text/test.jsonl",
        ),
        (
            "medxpertqa",
            MEDXPERTQA | {"label": "D"},
            "field `label` is 'D'; it must be a letter of A to C",
            "",
        ),
    ],
)
def test_wrong_file_is_named_with_the_task_it_belongs_to(tmp_path, task, record, message, hint):
    path = tmp_path / ("wrong.json" if len(record) == 1 else "wrong.jsonl")
    path.write_text(json.dumps(record) + "\n")
    load = load_documents if task == "text" else lambda task, test_file: read(task.name, test_file)
    with pytest.raises(DataError) as error:
        load(TASKS[task], test_file=path)
    assert message in error.value.message
    assert str(path) in error.value.message
    assert hint in error.value.hint


def test_artificial_pubmedqa_is_refused_as_test_and_taken_as_training_part(tmp_path):
    items = {str(90_000_000 + number): PUBMEDQA for number in range(501)}
    path = write_json(tmp_path / "ori_pqaa.json", items)
    for task in ("pubmedqa", "pubmedqa-no-context"):
        with pytest.raises(DataError, match=r"ori_pqaa\.json: none of the 501 items .* pqa_artificial"):
            read(task, path)
    labelled = write_json(tmp_path / "ori_pqal.json", items | {"1": PUBMEDQA | {"final_decision": "maybe"}})
    assert len(read("pubmedqa", labelled)) == 502
    loaded = load_questions(TASKS["pubmedqa"], shots=1, test_file=labelled, train_file=path)
    assert len(loaded.pool or ()) == 501


def test_empty_files_and_folders_are_named(tmp_path):
    for name, content in (("a.jsonl", ""), ("b.json", ""), ("c.json", "[]"), ("d.jsonl", "\n\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=rf"{name}: the file holds no question"):
            read("medqa", tmp_path / name)
        with pytest.raises(DataError, match=rf"{name}: the file holds no document"):
            load_documents(TASKS["text"], test_file=tmp_path / name)
    only_others = write_json(tmp_path / "e.json", {"questions": [BIOASQ | {"type": "list"}]})
    with pytest.raises(DataError, match=r"e\.json: the file holds no question"):
        read("bioasq-yesno", only_others)
    with pytest.raises(DataError, match="is a folder; give one file") as error:
        read("medqa", tmp_path)
    assert "a.jsonl, b.json" in error.value.hint
