"""Training questions: what is wrong with them is told, what nobody can learn from is left out, a part is held out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.instructions.finetuning import question_example
from biomedllama_cli.instructions.held_out import choose_held_out, split_examples, split_validation
from biomedllama_cli.instructions.training_questions import load_training_questions, write_audit
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask, load_questions
from biomedllama_cli.tasks.own_questions import read_own_questions
from biomedllama_cli.tasks.question import Question

SOUND = {"question": "Which metal carries oxygen in blood?", "options": ["Zinc", "Iron"], "answer_index": 1}


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def medqa(question: str, options: list[str], letter: Any) -> dict[str, Any]:
    by_letter = dict(zip("ABCD", options, strict=True))
    return {"question": question, "options": by_letter, "answer_idx": letter}


def medmcqa(number: int, cop: Any, **fields: Any) -> dict[str, Any]:
    options = {f"op{letter}": f"choice {letter}{number}" for letter in "abcd"}
    return {
        "id": f"m{number}",
        "question": f"Which choice is number {number}?",
        **options,
        "cop": cop,
    } | fields


def pubmedqa(pmid: int, label: Any) -> dict[str, Any]:
    return {
        "pubid": pmid,
        "question": f"Does drug {pmid} work?",
        "context": {"contexts": [f"Drug {pmid} was given to mice.", "They were well."]},
        "long_answer": "It may.",
        "final_decision": label,
    }


def test_all_ways_of_writing_an_own_question_are_read(tmp_path):
    path = write_lines(
        tmp_path / "own.jsonl",
        [
            SOUND,
            {"id": "a7", "question": "Wet?", "options": {"B": "no", "A": "yes"}, "answer_idx": "B"},
            {"id": 12, "question": "Wet?", "options": ["yes", "no"], "answer": "yes", "context": "Water."},
            SOUND | {"answer_idx": "B", "answer": "Iron", "source": "made up", "context": None},
        ],
    )
    read = read_own_questions(path)
    assert [question.id for question in read] == ["0", "a7", "12", "3"]
    assert [question.answer for question in read] == ["Iron", "no", "yes", "Iron"]
    assert [question.context for question in read] == [None, None, "Water.", None]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"answer_index": 2}, "field `answer_index` is 2; it must be 0 to 1"),
        ({"answer_index": -1}, "field `answer_index` is -1; it must be 0 to 1"),
        ({"answer_index": True}, "field `answer_index` is True; it must be 0 to 1"),
        ({"answer_index": "1"}, "field `answer_index` is '1'; it must be a number, 0 to 1, and not text"),
        ({"answer_index": None}, "field `answer_index` is missing"),
        (
            {"answer_index": None, "answer_idx": "C"},
            "field `answer_idx` is 'C'; it must be a letter of A to B",
        ),
        ({"answer_idx": "A"}, "`answer_index` names option B, `answer_idx` names option A"),
        ({"answer": "Tin"}, "field `answer` is 'Tin', the text of none of the options"),
        ({"question": " "}, "field `question` is blank"),
        ({"question": 7}, "field `question` is int; it must be text"),
        ({"options": ["Iron"]}, "field `options` holds 1 option; it must hold 2 to 26"),
        ({"options": ["Zinc", ""]}, "option B is blank"),
        ({"options": {"A": "Zinc", "C": "Iron"}}, "has the letters ['A', 'C']"),
        ({"options": "Iron"}, "field `options` must map letters to texts"),
        ({"context": 3}, "field `context` is int; it must be text"),
        ({"id": [1]}, "field `id` is [1]; it must be text or a whole number"),
    ],
)
def test_what_is_wrong_with_an_own_question_is_named_by_line(tmp_path, record, problem):
    path = write_lines(tmp_path / "own.jsonl", [SOUND, SOUND | record])
    with pytest.raises(DataError) as caught:
        read_own_questions(path)
    assert caught.value.message.startswith(f"{path} line 2: ")
    assert problem in caught.value.message
    assert caught.value.hint


def test_several_problems_are_told_at_once_and_the_rest_counted(tmp_path):
    wrong = [SOUND | {"answer_index": number} for number in range(2, 24)]
    path = write_lines(tmp_path / "own.jsonl", [SOUND, *wrong])
    with path.open("a") as file:
        file.write("{not json\n")
    with pytest.raises(DataError) as caught:
        load_training_questions(str(path))
    lines = caught.value.message.splitlines()
    assert lines[0] == "23 problems in 24 records:"
    assert [int(line.split("line ")[1].split(":")[0]) for line in lines[1:21]] == list(range(2, 22))
    assert lines[21:] == ["  and 3 more"]


def test_a_broken_line_hides_no_later_mistake_and_repeated_ids_are_told_beside_them(tmp_path):
    lines = [json.dumps(SOUND | {"id": f"q{number}"}) for number in range(9)]
    lines[2] = '{"question": "Which'
    lines[3] = "[1, 2]"
    lines[5] = json.dumps(SOUND | {"id": "q1", "answer_index": 7})
    lines[7] = json.dumps(SOUND | {"id": "q0"})
    path = tmp_path / "own.jsonl"
    path.write_bytes("\n".join([*lines[:5], "", *lines[5:]]).encode() + b'\n{"question": "\xff"}\n')
    with pytest.raises(DataError) as caught:
        read_own_questions(path)
    told = caught.value.message.splitlines()
    assert told[0] == "4 problems in 10 records:"
    assert [line.partition(f"{path} line ")[2].partition(":")[0] for line in told[1:5]] == [
        "3",
        "4",
        "7",
        "11",
    ]
    assert told[5] == (
        f"Besides, `id` 'q0' stands in 2 records: {path} line 1, again {path} line 9; 1 other id is repeated as well"
    )


def test_an_id_in_two_records_is_told_beside_a_single_problem(tmp_path):
    path = write_lines(tmp_path / "own.jsonl", [SOUND | {"id": 4}, SOUND | {"id": "4", "answer_index": 2}])
    with pytest.raises(DataError) as caught:
        read_own_questions(path)
    first, second = caught.value.message.splitlines()
    assert first == f"{path} line 2: field `answer_index` is 2; it must be 0 to 1."
    assert second == f"Besides, `id` '4' stands in 2 records: {path} line 1, again {path} line 2"


def test_a_file_without_questions_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no question"):
        read_own_questions(write_lines(tmp_path / "own.jsonl", []))


def test_own_questions_are_trained_on_and_scored_alike(tmp_path):
    path = write_lines(
        tmp_path / "triage.jsonl", [SOUND, SOUND | {"question": "Which?", "context": "Two metals."}]
    )
    loaded = load_training_questions(str(path))
    assert (loaded.name, loaded.source.rows, loaded.audit.questions) == ("triage", 2, 2)
    for task in ("questions", "sample-questions"):
        known = TASKS[task]
        assert isinstance(known, QuestionTask)
        assert load_questions(known, shots=0, test_file=path).items == loaded.questions


def test_defects_of_ones_own_questions_are_named_by_line(tmp_path):
    path = tmp_path / "own.jsonl"
    records = [SOUND, SOUND | {"question": "Which?", "options": ["Tin", "tin"]}, SOUND]
    path.write_text("\n\n".join(map(json.dumps, records)), encoding="utf-8")
    write_audit(load_training_questions(str(path)), tmp_path / "run")
    listed = [json.loads(line) for line in (tmp_path / "run" / "training_defects.jsonl").open()]
    assert [(line["kind"], line["where"]) for line in listed] == [
        ("answer_repeated", f"{path} line 3"),
        ("duplicate_question", f"{path} line 5"),
    ]


@pytest.mark.parametrize(
    ("task", "file", "message"),
    [
        ("medq", None, "there is no such task and no such file"),
        ("pubmed-abstracts", None, "running text"),
        ("own.jsonl", Path("other.jsonl"), "names another training file"),
    ],
)
def test_a_task_that_is_none_is_an_error_of_the_call(task, file, message):
    with pytest.raises(SettingsError, match=message):
        load_training_questions(task, file)


def test_a_missing_file_and_a_missing_hub_say_how_to_go_on(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_training_questions(str(tmp_path / "gone.jsonl"))
    with pytest.raises(UnavailableError) as caught:
        load_training_questions("pubmedqa")
    assert "pqa_artificial" in caught.value.message
    assert "--data pubmedqa.train=FILE" in caught.value.hint


def test_each_task_of_fine_tuning_has_its_published_training_split():
    splits = {}
    for name in ("medqa", "medqa-5", "medmcqa", "pubmedqa"):
        task = TASKS[name]
        assert isinstance(task, QuestionTask)
        splits[name] = str(task.tuning or task.train)
    assert splits == {
        "medqa": "GBaker/MedQA-USMLE-4-options, train split",
        "medqa-5": "bigbio/med_qa (med_qa_en_bigbio_qa), train split",
        "medmcqa": "medmcqa, train split",
        "pubmedqa": "pubmed_qa (pqa_artificial), train split",
    }
    # Few-shot examples of PubMedQA are still drawn from the scored items, as published.
    assert TASKS["pubmedqa"].train is None  # type: ignore[union-attr]


def test_published_keeps_defective_questions_and_cleaned_drops_them(tmp_path):
    sound = medqa("Which one is a noble gas?", ["Neon", "Iron", "Zinc", "Lead"], "A")
    path = write_lines(
        tmp_path / "train.jsonl",
        [
            sound,
            medqa("Which is liquid?", ["Tin", "tin ", "Zinc", "Mercury"], "D"),
            medqa("Which rusts?", ["Iron", "IRON", "Zinc", "Gold"], "A"),
            sound,
            medqa("which one is a  noble gas?", ["Iron", "Neon", "Zinc", "Lead"], "A"),
            medqa("Which is yellow?", ["Iron", "Neon", "Gold", "Lead"], None),
            medqa("Which is grey?", ["Iron", "Neon", "Gold", "Lead"], "E"),
            medqa("Which is yellow?", ["Iron", "Neon", "Gold", "Lead"], "C"),
            medqa("Which is heavy?", ["Iron", "Neon", " ", "Tin"], "C") | {"answer": "Lead"},
            medqa("Which is light?", ["Iron", "Neon", "Gold", "Tin"], "B") | {"answer": "Helium"},
        ],
    )
    published = load_training_questions("medqa", path)
    cleaned = load_training_questions("medqa", path, "cleaned")
    assert [question.id for question in published.questions] == ["0", "1", "2", "3", "4", "7", "9"]
    assert [question.id for question in cleaned.questions] == ["0", "7"]
    kinds = {
        "answer_repeated": 1,
        "answer_text_differs": 1,
        "conflicting_answer": 1,
        "duplicate_options": 1,
        "duplicate_question": 1,
    }
    for loaded, dropped in ((published, 0), (cleaned, 5)):
        audit = loaded.audit
        assert audit.unusable == {"answer_not_an_option": 1, "blank_answer": 1, "no_answer": 1}
        assert audit.defects == kinds
        assert (audit.defective, audit.dropped, loaded.dropped) == (5, dropped, dropped)
        assert audit.records == sum(audit.unusable.values()) + audit.questions + audit.dropped == 10
    write_audit(cleaned, tmp_path / "run")
    listed = [json.loads(line) for line in (tmp_path / "run" / "training_defects.jsonl").open()]
    assert [line["kind"] for line in listed[:2]] == ["no_answer", "answer_not_an_option"]
    assert f"{path} line 6" in listed[0]["where"]
    assert len(listed) == 3 + 5
    (differs,) = (line for line in listed if line["kind"] == "answer_text_differs")
    assert (differs["question"], differs["where"]) == ("9", f"{path} line 10")
    assert json.loads((tmp_path / "run" / "training_audit.json").read_text())["dropped"] == 5


def test_medmcqa_without_keys_is_counted_and_several_right_statements_are_noted(tmp_path):
    records = [
        medmcqa(0, 0),
        medmcqa(1, 3, choice_type="multi"),
        medmcqa(2, -1),
        medmcqa(3, 7),
        medmcqa(4, None),
        medmcqa(5, 1, question=" "),
        medmcqa(6, 2, choice_type="multi"),
    ]
    loaded = load_training_questions("medmcqa", write_lines(tmp_path / "train.json", records))
    assert [(item.id, item.answer) for item in loaded.questions] == [
        ("m0", "choice a0"),
        ("m1", "choice d1"),
        ("m6", "choice c6"),
    ]
    assert loaded.audit.unusable == {"answer_not_an_option": 1, "blank_question": 1, "no_answer": 2}
    assert loaded.audit.notes == (
        "2 of 7 records have the `choice_type` multi; each of them has one right option all the same, and is trained "
        "on as such",
    )


def test_a_test_split_without_answers_is_no_training_set(tmp_path):
    path = write_lines(tmp_path / "test.json", [medmcqa(number, -1) for number in range(3)])
    with pytest.raises(DataError, match="none of the 3 records has a question and an answer"):
        load_training_questions("medmcqa", path)


def test_a_broken_schema_is_an_error_and_not_a_defect(tmp_path):
    record = medmcqa(0, 0)
    del record["opc"]
    with pytest.raises(DataError, match="field `opc` is missing"):
        load_training_questions("medmcqa", write_lines(tmp_path / "train.json", [medmcqa(1, 0), record]))
    other = write_lines(tmp_path / "other.jsonl", [pubmedqa(1, "yes")])
    with pytest.raises(DataError) as caught:
        load_training_questions("medqa", other)
    assert "pubmedqa" in caught.value.hint


def test_artificial_pubmedqa_may_be_trained_on_and_lacks_an_answer(tmp_path):
    records = [pubmedqa(pmid, ("yes", "no")[pmid % 2]) for pmid in range(10, 30)] + [pubmedqa(99, "")]
    loaded = load_training_questions("pubmedqa", write_lines(tmp_path / "train.jsonl", records))
    assert (len(loaded.questions), loaded.audit.unusable) == (20, {"no_answer": 1})
    assert "no question has the answer maybe" in loaded.audit.notes[0]
    mixed = write_lines(tmp_path / "mixed.jsonl", [*records, pubmedqa(100, "maybe")])
    assert load_training_questions("pubmedqa", mixed).audit.notes == ()


def make_questions(count: int) -> list[Question]:
    return [
        Question(f"{number}", f"Which drug has the number {number}?", (f"a{number}", f"b{number}"), 0)
        for number in range(count)
    ]


def test_the_held_out_part_follows_the_content_and_not_the_order():
    questions = make_questions(200)
    train, held_out = split_validation(questions, 0.1)
    assert len(held_out) == 20
    assert sorted([*train, *held_out], key=questions.index) == questions
    assert held_out == [question for question in questions if question in held_out]
    shuffled = random.Random(3).sample(questions, len(questions))
    assert set(split_validation(shuffled, 0.1)[1]) == set(held_out)
    renamed = [replace(question, id=f"x{question.id}") for question in questions]
    assert [item.question for item in split_validation(renamed, 0.1)[1]] == [
        item.question for item in held_out
    ]
    # Others that come later move few: a question held out of 200 is held out of 220 unless it is at the border.
    assert len(set(split_validation(make_questions(220), 0.1)[1]) & set(held_out)) >= 15


def test_equal_questions_are_never_on_both_sides():
    questions = make_questions(60)
    again = [
        replace(item, id=f"{item.id}-2", question=item.question.upper() + " ", options=item.options[::-1])
        for item in questions
    ]
    train, held_out = split_validation([*questions, *again], 0.25)
    assert len(held_out) == 30
    numbers = [{item.id.removesuffix("-2") for item in side} for side in (train, held_out)]
    assert not numbers[0] & numbers[1]
    examples = [question_example(item, "own", "instructed") for item in [*questions, *again]]
    learnt, kept = split_examples(examples, 0.25)
    sides = [{item.id.removesuffix("-2") for item in side} for side in (learnt, kept)]
    assert len(kept) == 30
    assert not sides[0] & sides[1]


def test_questions_about_the_same_context_stay_together():
    items = [
        replace(question, context=f"Trial {number // 4} was stopped early.")
        for number, question in enumerate(make_questions(40))
    ]
    for train, held_out in (
        split_validation(items, 0.2),
        split_examples([question_example(item, "own", "finetuned") for item in items], 0.2),
    ):
        trials = [{int(item.id) // 4 for item in side} for side in (train, held_out)]
        assert (len(held_out), len(trials[1])) == (8, 2)
        assert not trials[0] & trials[1]


@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(0, 0.5, 0), (1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (50, 0, 0)]
)
def test_at_least_one_is_held_out_and_never_all(count, fraction, held_out):
    assert len(split_validation(make_questions(count), fraction)[1]) == held_out


def test_a_content_that_stands_very_often_is_trained_on():
    contents = [b"common"] * 90 + [b"%d" % number for number in range(10)]
    held_out = choose_held_out(contents, 0.1)
    assert held_out
    assert not held_out & set(range(90))
    assert len(choose_held_out([b"a", b"a", b"b", b"b", b"b"], 0.01)) == 2


def test_real_training_files_are_read_whole(shared_data):
    for task, file, count in (
        ("pubmedqa", "pubmedqa/ori_pqal_nontest500.json", 500),
        ("medqa-5", "medqa/test_5options_first640.jsonl", 640),
        ("medmcqa", "medmcqa/validation_first120.jsonl", 120),
    ):
        loaded = load_training_questions(task, shared_data / file)
        assert (loaded.audit.records, len(loaded.questions), loaded.unusable) == (count, count, ())
        assert len(split_validation(loaded.questions, 0.02)[1]) == round(count * 0.02)
    own = load_training_questions(str(shared_data / "medqa/test_5options_first640.jsonl"))
    assert own.name == "test_5options_first640"
    assert len(own.questions) == 640
