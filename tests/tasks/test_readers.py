"""Every published schema becomes the same record, and what is broken is named by file, line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.catalogue import TASKS, load_documents, load_questions
from biomedllama_cli.tasks.question import Question

JIND11 = {
    "question": "Which metal?",
    "answer": "Iron",
    "options": {"A": "Zinc", "B": "Iron", "C": "Lead", "D": "Tin", "E": "Gold"},
    "meta_info": "step1",
    "answer_idx": "B",
}
GBAKER = JIND11 | {
    "options": {"A": "Zinc", "B": "Iron", "C": "Lead", "D": "Tin"},
    "metamap_phrases": ["metal"],
}
BIGBIO = {
    "id": "test-7",
    "question_id": "0",
    "document_id": "0",
    "question": "Which metal?",
    "type": "multiple_choice",
    "choices": ["Zinc", "Iron", "Lead", "Tin", "Gold"],
    "context": "",
    "answer": ["Iron"],
}
MEDMCQA = {
    "id": "a",
    "question": "Which?",
    "opa": "Zinc",
    "opb": "Iron",
    "opc": "Lead",
    "opd": "Tin",
    "cop": 1,
}
ORI_PQAL = {
    "QUESTION": "Does it?",
    "CONTEXTS": ["First part.", "Second part."],
    "LABELS": ["A", "B"],
    "final_decision": "maybe",
    "LONG_ANSWER": "It may.",
}
HUB_PQAL = {
    "pubid": 123,
    "question": "Does it?",
    "context": {"contexts": ["First part.", "Second part."], "labels": ["A", "B"], "meshes": []},
    "long_answer": "It may.",
    "final_decision": "maybe",
}


def write_lines(path: Path, *records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(task: str, path: Path) -> tuple[Question, ...]:
    return load_questions(TASKS[task], shots=0, test_file=path).items


def test_medqa_schemas_become_the_same_question(tmp_path):
    five = ("Zinc", "Iron", "Lead", "Tin", "Gold")
    (original,) = read("medqa-5", write_lines(tmp_path / "a.jsonl", JIND11))
    (bigbio,) = read("medqa-5", write_lines(tmp_path / "b.jsonl", BIGBIO))
    (four,) = read("medqa", write_lines(tmp_path / "c.jsonl", GBAKER))
    step = (("step", "step1"),)
    assert original == Question("0", "Which metal?", five, 1, groups=step)
    assert bigbio == Question("test-7", "Which metal?", five, 1)
    assert four == Question("0", "Which metal?", five[:4], 1, groups=step)


def test_parquet_fills_missing_letters_with_null_and_reads_the_same(tmp_path):
    pq.write_table(pa.Table.from_pylist([GBAKER, JIND11]), tmp_path / "mixed.parquet")
    with pytest.raises(DataError, match=r"mixed\.parquet row 1: .*5 options where 4 are expected"):
        read("medqa", tmp_path / "mixed.parquet")
    pq.write_table(pa.Table.from_pylist([HUB_PQAL]), tmp_path / "labels.parquet")
    (question,) = read("pubmedqa", tmp_path / "labels.parquet")
    context = "First part.\nSecond part."
    assert question == Question("123", "Does it?", ("yes", "no", "maybe"), 2, context, "It may.")


def test_five_options_in_medqa_are_refused_with_the_right_task_in_the_hint(tmp_path):
    path = write_lines(tmp_path / "five.jsonl", GBAKER, JIND11)
    with pytest.raises(DataError, match=r"five\.jsonl line 2: .*5 options where 4 are expected") as error:
        read("medqa", path)
    assert "medqa-5" in error.value.hint
    with pytest.raises(DataError, match="4 options where 5 are expected"):
        read("medqa-5", path)


def test_medmcqa_counts_from_0_or_1_as_the_whole_file_shows(tmp_path, caplog):
    def answers(*cops):
        records = [MEDMCQA | {"cop": cop} for cop in cops]
        return [
            question.answer_index for question in read("medmcqa", write_lines(tmp_path / "x.jsonl", *records))
        ]

    assert answers(1, 0, 3) == [1, 0, 3]
    assert answers(1, 4, 3) == [0, 3, 2]
    assert answers("a", "d", "B") == [0, 3, 1]
    assert answers(1, 2) == [1, 2]  # the hub's count, with a warning
    assert "does not tell if it counts from 0 or 1" in caplog.text
    for unclear, message in (((0, 4), "not both"), ((0, -1), "-1"), ((5,), "5")):
        with pytest.raises(DataError, match=message):
            answers(*unclear)


def test_medmcqa_original_release_is_json_lines_under_the_name_json(tmp_path):
    path = write_lines(tmp_path / "dev.json", MEDMCQA, MEDMCQA | {"cop": 4, "id": "b"})
    assert [(question.id, question.answer) for question in read("medmcqa", path)] == [
        ("a", "Zinc"),
        ("b", "Tin"),
    ]


def test_pubmedqa_original_and_hub_schema_become_the_same_question(tmp_path):
    (tmp_path / "ori_pqal.json").write_text(json.dumps({"123": ORI_PQAL}))
    (original,) = read("pubmedqa", tmp_path / "ori_pqal.json")
    (hub,) = read("pubmedqa", write_lines(tmp_path / "hub.jsonl", HUB_PQAL))
    context = "First part.\nSecond part."
    assert original == hub == Question("123", "Does it?", ("yes", "no", "maybe"), 2, context, "It may.")


def test_real_files_are_read_whole(shared_data):
    five = read("medqa-5", shared_data / "medqa" / "test_5options_first640.jsonl")
    four = read("medmcqa", shared_data / "medmcqa" / "validation_first120.jsonl")
    labels = read("pubmedqa", shared_data / "pubmedqa" / "ori_pqal_nontest500.json")
    assert (len(five), len(four), len(labels)) == (640, 120, 500)
    assert four[0].answer == "MgSO4"
    assert [sum(question.answer_index == index for question in labels) for index in range(3)] == [
        276,
        169,
        55,
    ]
    assert labels[0].id == "10808977"
    with pytest.raises(DataError, match=r"test_5options_first640\.jsonl line 1: .*5 options where 4"):
        read("medqa", shared_data / "medqa" / "test_5options_first640.jsonl")


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        ("medqa", {key: GBAKER[key] for key in GBAKER if key != "question"}, "field `question` is missing"),
        ("medqa", GBAKER | {"answer_idx": "E"}, "field `answer_idx` is 'E'"),
        ("medqa", GBAKER | {"options": {"A": "x", "C": "y"}}, "letters"),
        ("medqa", GBAKER | {"options": "A"}, "field `options`"),
        ("medqa", GBAKER | {"options": ["a", "b"]}, "field `options` is a list without letters; it must map"),
        ("medqa", GBAKER | {"question": "  "}, "field `question` is blank"),
        ("medqa-5", BIGBIO | {"answer": ["Silver"]}, "field `answer` is 'Silver'"),
        ("medmcqa", MEDMCQA | {"opc": None, "cop": 0}, "field `opc`"),
        ("pubmedqa", HUB_PQAL | {"final_decision": "perhaps"}, "field `final_decision`"),
        ("pubmedqa", HUB_PQAL | {"context": "text"}, "field `context.contexts`"),
        ("sample-questions", {"question": "?", "options": ["a", "b"], "answer_index": 2}, "`answer_index`"),
        ("medqa", ["not", "an", "object"], "a record is a list; it must be an object"),
        ("medqa", None, "a record is null; it must be an object"),
        ("medqa", 1.5, "a record is a number; it must be an object"),
    ],
)
def test_broken_records_name_file_line_and_field(tmp_path, task, record, message):
    path = tmp_path / "broken.jsonl"
    path.write_text("\n" + json.dumps(record) + "\n")  # a blank line counts as a line
    with pytest.raises(DataError, match=r"broken\.jsonl line 2") as error:
        read(task, path)
    assert message in error.value.message


def test_broken_bytes_are_named(tmp_path):
    (tmp_path / "half.jsonl").write_text(json.dumps(GBAKER) + "\n" + json.dumps(GBAKER)[:30])
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        read("medqa", tmp_path / "half.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9"}\n')
    with pytest.raises(DataError, match="line 1: byte 17 is not UTF-8"):
        read("medqa", tmp_path / "latin.jsonl")
    (tmp_path / "half.json").write_text('{"123": {"QUESTION":')
    with pytest.raises(DataError, match="not valid JSON"):
        read("pubmedqa", tmp_path / "half.json")
    (tmp_path / "not.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read("medqa", tmp_path / "not.parquet")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no question"):
        read("medqa", tmp_path / "empty.jsonl")
    (tmp_path / "table.csv").write_text("question,answer\n")
    with pytest.raises(DataError, match="not read"):
        read("medqa", tmp_path / "table.csv")


def pile_record(text, name):
    return {"text": text, "meta": {"pile_set_name": name}}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_pile_records_are_kept_by_subset(tmp_path, suffix):
    records = [
        pile_record("An abstract.", "PubMed Abstracts"),
        pile_record("A paper.\u2028Its end.", "PubMed Central"),
        pile_record("A web page.", "Pile-CC"),
        {"text": "A plain document."},
    ]
    raw = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    half = len(raw) // 2
    packed = {
        ".jsonl": raw,
        ".jsonl.gz": gzip.compress(raw),
        ".jsonl.zst": zstandard.compress(raw[:half]) + zstandard.compress(raw[half:]),
    }[suffix]
    path = tmp_path / f"test{suffix}"
    path.write_bytes(packed)
    loaded = load_documents(TASKS["pubmed-abstracts"], test_file=path)
    assert [document.text for document in loaded.items] == ["An abstract.", "A plain document."]
    loaded = load_documents(TASKS["pubmed-central"], test_file=path)
    assert [document.text for document in loaded.items] == ["A paper.\u2028Its end.", "A plain document."]
    if suffix != ".jsonl":
        path.write_bytes(packed[:-6])
        with pytest.raises(DataError, match="cut short"):
            load_documents(TASKS["pubmed-abstracts"], test_file=path)


def test_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("One document.\nTwo lines.")
    (document,) = load_documents(TASKS["pubmed-central"], test_file=tmp_path / "a.txt").items
    assert document.text == "One document.\nTwo lines."


def test_shard_without_the_subset_is_refused(tmp_path):
    path = write_lines(tmp_path / "web.jsonl", pile_record("A web page.", "Pile-CC"))
    with pytest.raises(DataError, match="PubMed Central"):
        load_documents(TASKS["pubmed-central"], test_file=path)


def test_sample_questions_are_forty_sound_ones():
    items = load_questions(TASKS["sample-questions"], shots=0).items
    assert len(items) == len({item.question for item in items}) == 40
    assert all(len(set(item.options)) == 4 for item in items)
    counts = [sum(item.answer_index == index for item in items) for index in range(4)]
    assert counts == [10, 10, 10, 10]  # no position is the better guess


def test_completion_offers_every_task():
    from biomedllama_cli.evaluation.plan import HARNESS_GROUPS
    from biomedllama_cli.settings.evaluate import TASK_NAMES

    assert set(TASK_NAMES) == {*TASKS, *HARNESS_GROUPS, "list"}
