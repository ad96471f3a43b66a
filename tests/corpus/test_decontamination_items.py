"""Benchmarks are named, read and reported as asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from biomedllama_cli.corpus.decontamination.build import build_index
from biomedllama_cli.corpus.decontamination.items import (
    Benchmark,
    BenchmarkItem,
    hash_item,
    list_splits,
    load_items,
    parse_benchmarks,
)
from biomedllama_cli.corpus.decontamination.matching import Overlap, find_overlaps
from biomedllama_cli.corpus.decontamination.report import write_overlaps, write_report
from biomedllama_cli.corpus.document import Metadata
from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.tasks.mmlu import SUBJECTS

PUBMEDQA = {
    "77": {
        "QUESTION": "Do bees sleep?",
        "CONTEXTS": ["First part.", "Second part."],
        "final_decision": "yes",
        "LONG_ANSWER": "They do.",
    }
}
MMLU = {"question": "Which bone?", "choices": ["Ulna", "Femur"], "answer": 1, "subject": "anatomy"}


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_benchmarks_are_parsed_in_order():
    assert parse_benchmarks(("medqa-5=a=b.jsonl", "mmlu-medical")) == [
        Benchmark("medqa-5", Path("a=b.jsonl")),
        Benchmark("mmlu-medical"),
    ]


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        (("pubmedq",), "no benchmark 'pubmedq'", "Did you mean pubmedqa?"),
        (("gsm8k=x.jsonl",), "no benchmark 'gsm8k'", "mmlu-medical"),
        (("medqa=",), "no file", ""),
        (("medqa", "medqa=x.jsonl"), "medqa twice", ""),
    ],
)
def test_wrong_benchmarks_are_refused(values, message, hint):
    with pytest.raises(SettingsError, match=message) as error:
        parse_benchmarks(values)
    assert hint in error.value.hint


def test_a_pubmedqa_item_has_its_pmid_contexts_and_long_answer(tmp_path):
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps(PUBMEDQA))
    (item,), (source,) = load_items([Benchmark("pubmedqa", path)])
    assert item == BenchmarkItem(
        "pubmedqa",
        "77",
        77,
        "Do bees sleep?",
        ("yes", "no", "maybe"),
        "yes",
        ("First part.", "Second part.", "They do."),
    )
    assert (source.items, len(source.sha256 or "")) == (1, 64)


def test_mmlu_keeps_the_medical_subjects(tmp_path):
    other = MMLU | {"subject": "astronomy"}
    letter = MMLU | {"answer": "A", "subject": "medical_genetics"}
    path = write_lines(tmp_path / "mmlu.jsonl", MMLU, other, letter, MMLU | {"subject": None})
    items, _ = load_items([Benchmark("mmlu-medical", path)])
    assert [(item.item_id, item.answer) for item in items] == [
        ("anatomy-0", "Femur"),
        ("medical_genetics-2", "Ulna"),
        ("3", "Femur"),
    ]
    assert [split.configuration for split in list_splits("mmlu-medical")] == list(SUBJECTS)
    with pytest.raises(DataError, match="holds no item"):
        load_items([Benchmark("mmlu-medical", write_lines(tmp_path / "other.jsonl", other))])


@pytest.mark.parametrize("fields", [{"answer": 2}, {"answer": "E"}, {"answer": True}, {"choices": "Ulna"}])
def test_broken_mmlu_records_are_named(tmp_path, fields):
    path = write_lines(tmp_path / "mmlu.jsonl", MMLU, MMLU | fields)
    with pytest.raises(DataError, match=f"line 2: field `{next(iter(fields))}`"):
        load_items([Benchmark("mmlu-medical", path)])


@pytest.mark.parametrize("name", ["pubmedqa", "mmlu-medical"])
def test_without_the_hub_the_hint_asks_for_a_file(name):
    with pytest.raises(UnavailableError) as error:
        load_items([Benchmark(name)])
    assert f"--benchmark {name}=FILE" in error.value.hint


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"--benchmark medqa=.*no\.jsonl: there is no such file"):
        load_items([Benchmark("medqa", tmp_path / "no.jsonl")])


def test_the_report_lists_documents_by_item_and_counts_them(tmp_path):
    question = "Which of these nine words is the name of a bee?"
    records = [
        {"question": question, "choices": ["Osmia", "Ulna"], "answer": 0, "subject": "college_biology"},
        MMLU,
    ]
    items, sources = load_items([Benchmark("mmlu-medical", write_lines(tmp_path / "mmlu.jsonl", *records))])
    index = build_index(items, sources)
    overlaps = find_overlaps(index, f"{question} Osmia.")
    tasks = [tmp_path / "0.jsonl", tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    with tasks[0].open("wb") as file:
        write_overlaps(file, 4, "a.xml, line 5", Metadata(pmid=8), overlaps=overlaps)
    tasks[1].write_bytes(b"")
    with tasks[2].open("wb") as file:
        write_overlaps(file, None, "b.xml, line 1", None, overlaps=overlaps)
    summary = write_report(index, tasks, tmp_path / "report", mode="drop")
    (line,) = map(json.loads, (tmp_path / "report" / "contamination.jsonl").read_text().splitlines())
    assert (line["item"], line["count"]) == ("college_biology-0", 2)
    evidence = "which of these nine words is the name of a bee"
    assert line["documents"] == [
        {
            "task": task,
            "document": document,
            "where": where,
            "pmid": pmid,
            "pmcid": None,
            "overlaps": [{"kind": "question_and_answer", "share": 1.0, "evidence": evidence}],
        }
        for task, document, where, pmid in [(0, 4, "a.xml, line 5", 8), (2, None, "b.xml, line 1", None)]
    ]
    (untestable,) = map(json.loads, (tmp_path / "report" / "untestable.jsonl").read_text().splitlines())
    assert untestable == {
        "benchmark": "mmlu-medical",
        "item": "anatomy-1",
        "reason": "question_under_8_words",
    }
    listed = list(map(json.loads, (tmp_path / "report" / "benchmark_items.jsonl").read_text().splitlines()))
    assert [(line["item"], line["sha256"]) for line in listed] == [
        (item.item_id, hash_item(item)) for item in items
    ]
    counts = summary.benchmarks["mmlu-medical"]
    assert summary.documents == counts.documents == 2
    assert (counts.items, counts.testable, counts.contaminated) == (2, 1, 1)
    assert counts.untestable == {"question_under_8_words": 1}
    assert counts.kinds == {"question_and_answer": 2}
    assert type(summary).model_validate_json(summary.model_dump_json()) == summary


def test_an_item_is_known_again_by_its_content():
    item = BenchmarkItem("medqa", "7", None, "Which bone is it?", ("Ulna", "Femur"), "Ulna")
    same = BenchmarkItem("medqa-5", "0", None, "which bone is it", ("Femur", "Tibia", "Ulna"), "ulna.")
    assert hash_item(item) == hash_item(same)
    others = (
        replace(item, answer="Femur"),
        replace(item, question="Which bone was it?"),
        replace(item, pmid=1),
    )
    assert len({hash_item(item), *map(hash_item, others)}) == 4


def test_a_foreign_line_among_the_overlaps_is_named(tmp_path):
    (tmp_path / "0.jsonl").write_text('{"overlaps": []}\n[]\n')
    with pytest.raises(DataError, match=r"0\.jsonl line 2"):
        write_report(build_index([], []), [tmp_path / "0.jsonl"], tmp_path / "report", mode="report")


def test_evidence_is_bounded():
    words = " ".join(f"word{number}" for number in range(500))
    index = build_index([BenchmarkItem("medqa", "0", None, words, ("a", "b"), "a")], [])
    (overlap,) = find_overlaps(index, words)
    assert overlap == Overlap("medqa", "0", "13-gram", 1.0, " ".join(words.split()[:40]))


def test_a_folder_is_told_from_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="it is a folder, not a file"):
        load_items([Benchmark("medqa", tmp_path)])


def test_questions_with_five_options_are_asked_for_by_their_benchmark(tmp_path):
    options = dict(zip("ABCDE", ("a", "b", "c", "d", "e"), strict=True))
    path = write_lines(tmp_path / "five.jsonl", {"question": "Which?", "options": options, "answer_idx": "B"})
    with pytest.raises(DataError, match="holds 5 options") as error:
        load_items([Benchmark("medqa", path)])
    assert error.value.hint == f"Give --benchmark medqa-5={path} for this file."
