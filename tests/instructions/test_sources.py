"""Every format becomes examples; what is wrong is named by file and line, several at once; nothing goes silently."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.mixture import Format
from biomedllama_cli.instructions.sources.catalogue import FORMATS, _with_own_ids, load_source, read_source
from biomedllama_cli.instructions.sources.findings import Findings
from biomedllama_cli.instructions.training_questions import DataVersion
from biomedllama_cli.tasks.hub import HubSplit
from biomedllama_cli.tasks.records import file_sha256

MEDQA: dict[str, Any] = {
    "question": "Which metal?",
    "answer": "Iron",
    "options": {"A": "Zinc", "B": "Iron", "C": "Lead", "D": "Tin"},
    "meta_info": "step1",
    "answer_idx": "B",
}
MEDMCQA: dict[str, Any] = {
    "id": "a",
    "question": "Which?",
    "opa": "Zinc",
    "opb": "Iron",
    "opc": "Lead",
    "opd": "Tin",
    "cop": 0,
}
PQA_ORIGINAL = {
    "QUESTION": "Does it?",
    "CONTEXTS": ["First.", "Second."],
    "final_decision": "yes",
    "LONG_ANSWER": "It does.",
}
PQA_HUB: dict[str, Any] = {
    "pubid": 7,
    "question": "Does it?",
    "context": {"contexts": ["First.", "Second."], "labels": ["A", "B"], "meshes": []},
    "long_answer": "It does.",
    "final_decision": "no",
}
VERSIONS: tuple[DataVersion, ...] = ("published", "cleaned")
ALPACA: dict[str, Any] = {"instruction": "Name a metal.", "input": "", "output": "Iron."}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(folder: Path, format_name: str, *records: object) -> list[Example]:
    return read_source(format_name, write(folder / "records.jsonl", *records), "mine")


def texts(examples: list[Example]) -> list[tuple[str, ...]]:
    return [tuple(turn.text for turn in example.turns) for example in examples]


def refusal(folder: Path, format_name: str, *records: object) -> DataError:
    with pytest.raises(DataError) as caught:
        read(folder, format_name, *records)
    return caught.value


def test_every_format_a_mixture_can_name_has_a_reader() -> None:
    assert set(get_args(Format)) == set(FORMATS)
    assert all(name == each.name and each.schema for name, each in FORMATS.items())


def test_benchmarks_are_read_in_their_schemas(tmp_path: Path) -> None:
    (medqa,) = read(tmp_path, "medqa", MEDQA)
    (medmcqa,) = read(tmp_path, "medmcqa", MEDMCQA)
    (hub,) = read(tmp_path, "pubmedqa", PQA_HUB)
    assert (medqa.exact, medqa.source, medqa.turns[1].text) == (True, "mine", " (B) Iron")
    assert (medmcqa.id, medmcqa.turns[1].text) == ("a", " (A) Zinc")
    assert (hub.id, hub.turns[1].text) == ("7", " No")
    path = tmp_path / "ori_pqaa.json"
    path.write_text(json.dumps({"123": PQA_ORIGINAL}), encoding="utf-8")
    (original,) = read_source("pubmedqa", path, "mine")
    assert (original.id, original.turns[1].text) == ("123", " Yes")
    assert original.turns[0].cuttable is not None
    assert original.turns[0].text[slice(*original.turns[0].cuttable)] == "First.\nSecond."


def test_an_artificial_pubmedqa_without_maybe_is_read_whole(tmp_path: Path) -> None:
    records = [PQA_HUB | {"pubid": 10**9 + number} for number in range(600)]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "train.parquet")
    assert {
        example.turns[1].text for example in read_source("pubmedqa", tmp_path / "train.parquet", "pqa")
    } == {" No"}


def test_data_of_another_format_are_told_by_name(tmp_path: Path) -> None:
    assert "It looks like data of medmcqa" in refusal(tmp_path, "medqa", MEDMCQA).hint
    five = MEDQA | {"options": {**MEDQA["options"], "E": "Gold"}}
    error = refusal(tmp_path, "medqa", five, five)
    assert error.message.splitlines()[0] == "2 records are wrong:"
    assert error.hint == (
        "It looks like data of medqa-5: give --source a file of medqa, or name this one in a mixture file "
        "(--mixture FILE) with `format: medqa-5`."
    )
    assert len(read(tmp_path, "medqa-5", five)) == 1


def test_a_benchmark_question_whose_right_option_is_blank_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.jsonl", MEDMCQA, MEDMCQA | {"id": "b", "opa": " "})
    loaded = load_source("medmcqa", path, "mine")
    assert ([example.id for example in loaded.examples], loaded.left_out) == (["a"], {"blank_answer": 1})
    assert "mine: 1 left out (blank_answer), first question b" in caplog.text


def test_training_records_without_an_answer_are_left_out_by_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", MEDMCQA, MEDMCQA | {"id": "b", "cop": -1}, MEDMCQA | {"question": ""})
    loaded = load_source("medmcqa", path, "mine")
    assert [example.id for example in loaded.examples] == ["a"]
    assert loaded.left_out == {"no_answer": 1, "blank_question": 1}


@pytest.mark.parametrize("format_name", ["medqa", "medmcqa"])
def test_defective_questions_are_noted_as_published_and_left_out_when_cleaned(
    tmp_path: Path, format_name: str
) -> None:
    good = {"medqa": MEDQA, "medmcqa": MEDMCQA}[format_name]
    twice: dict[str, dict[str, Any]] = {
        "medqa": {"options": {"A": "Tin", "B": "Iron", "C": "Lead", "D": "Tin"}},
        "medmcqa": {"opc": "Tin"},
    }
    path = write(
        tmp_path / "a.jsonl", good, good | {"id": "b", "question": "Which of them?", **twice[format_name]}
    )
    published, cleaned = (load_source(format_name, path, "mine", version) for version in VERSIONS)
    assert (len(published.examples), published.left_out) == (2, {})
    assert (list(published.noted.values()), len(cleaned.examples)) == ([1], 1)
    assert (cleaned.left_out, cleaned.noted) == ({"defective": 1}, {})


def test_alpaca_puts_the_input_below_the_instruction(tmp_path: Path) -> None:
    examples = read(
        tmp_path,
        "alpaca",
        ALPACA | {"output": " Iron.\n\n"},
        ALPACA | {"input": "One that\nrusts."},
        ALPACA | {"input": "<noinput>"},
        {"instruction": "Name a metal.", "output": "Tin."},
        ALPACA | {"input": None},
    )
    assert texts(examples) == [
        ("Name a metal.", "Iron."),
        ("Name a metal.\n\nOne that\nrusts.", "Iron."),
        ("Name a metal.", "Iron."),
        ("Name a metal.", "Tin."),
        ("Name a metal.", "Iron."),
    ]
    assert not any(example.exact for example in examples)


def test_alpaca_records_are_a_list_or_lines_compressed_or_not(tmp_path: Path) -> None:
    whole = json.dumps([ALPACA, ALPACA | {"output": "Tin."}], indent=1).encode()
    lines = (
        b"\xef\xbb\xbf" + b"\n".join(json.dumps(record).encode() for record in json.loads(whole)) + b"\n\n"
    )
    (tmp_path / "a.json").write_bytes(whole)
    (tmp_path / "b.jsonl").write_bytes(lines)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "d.json.zst").write_bytes(zstandard.compress(whole))
    read_all = [texts(read_source("alpaca", path, "mine")) for path in sorted(tmp_path.iterdir())]
    assert read_all == [[("Name a metal.", "Iron."), ("Name a metal.", "Tin.")]] * 4


def test_an_empty_output_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", ALPACA | {"output": ""}, ALPACA, ALPACA | {"output": " \n"})
    loaded = load_source("alpaca", path, "mine")
    assert (len(loaded.examples), loaded.left_out, loaded.noted) == (1, {"empty_output": 2}, {})
    assert f"mine: 2 left out (empty_output), first {path} line 1" in caplog.text
    assert loaded.origin.rows == 1
    assert loaded.origin.sha256 == file_sha256(path)


def test_a_source_that_gives_nothing_is_an_error(tmp_path: Path) -> None:
    assert "holds no example" in refusal(tmp_path, "alpaca", ALPACA | {"output": ""}).message
    assert "holds no example" in refusal(tmp_path, "messages").message


@pytest.mark.parametrize(
    "changed",
    [
        {"image": "PMC1_g001.jpg"},
        {"images": ["a.png"]},
        {"instruction": "What does <image> show?"},
        {"input": "<Image>"},
    ],
)
def test_records_about_an_image_are_left_out_of_visual_med_alpaca(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    path = write(tmp_path / "a.jsonl", ALPACA | changed, ALPACA | {"image": ""})
    loaded = load_source("visual-med-alpaca", path, "mine")
    assert (texts(loaded.examples), loaded.left_out) == ([("Name a metal.", "Iron.")], {"image": 1})


def test_wrong_records_are_named_together_twenty_at_most(tmp_path: Path) -> None:
    wrong: list[object] = [ALPACA | {"output": 5}, {"instruction": "a"}, ALPACA | {"instruction": " "}]
    error = refusal(tmp_path, "alpaca", ALPACA, *wrong * 8)
    first, *lines = error.message.splitlines()
    assert first == "24 records are wrong:"
    assert [line.split("records.jsonl ")[1] for line in lines[:3]] == [
        "line 2: field `output` is int; it must be text",
        "line 3: field `output` is missing",
        "line 4: field `instruction` is blank; it must be text with something in it",
    ]
    assert lines[20:] == ["  and 4 more"]


def test_a_line_that_is_no_json_ends_the_list_of_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a"}\n{"instruction": \n{"instruction": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_source("alpaca", path, "mine")
    assert "line 1: field `output` is missing" in caught.value.message
    assert f"{path} line 2: not valid JSON" in caught.value.message
    assert "line 3" not in caught.value.message


@pytest.mark.parametrize(
    ("format_name", "record"),
    [
        ("alpaca", ALPACA | {"output": "a \ud800 b"}),
        (
            "messages",
            {"messages": [{"role": "user", "content": "\udfff"}, {"role": "assistant", "content": "b"}]},
        ),
        ("questions", {"question": "a\ud800", "options": ["a", "b"], "answer_index": 0}),
        ("mmlu-cot", {"physics": "Q: a\ud800\nA: b"}),
        ("medpalm", {"dataset": "liveqa", "question": "Why?", "answer": "\ud800"}),
    ],
)
def test_lone_surrogates_are_refused(tmp_path: Path, format_name: str, record: object) -> None:
    assert "lone surrogate" in refusal(tmp_path, format_name, record).message


def test_ids_that_come_again_are_numbered_and_noted(tmp_path: Path) -> None:
    records = [ALPACA | {"id": name} for name in ("a", "a#2", "a", "b", "a", 3)]
    loaded = load_source("alpaca", write(tmp_path / "a.jsonl", *records), "mine")
    assert [example.id for example in loaded.examples] == ["a", "a#2", "a#3", "b", "a#4", "3"]
    assert loaded.noted == {"repeated_id": 2}


def test_an_id_that_comes_very_often_costs_no_more_time_each(tmp_path: Path) -> None:
    class Name(str):
        """An id that counts how often a number is tried behind it."""

        tried = 0

        def __format__(self, spec: str) -> str:
            Name.tried += 1
            return super().__format__(spec)

    example = replace(read(tmp_path, "alpaca", ALPACA)[0], id=Name("a"))
    named = list(_with_own_ids(iter([example] * 500), Findings()))
    assert len({each.id for each in named}) == 500
    assert Name.tried < 5 * 500


def test_a_note_of_a_reader_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    loaded = load_source("medqa", write(tmp_path / "a.jsonl", MEDQA | {"answer": "Zinc"}), "mine")
    assert (len(loaded.examples), loaded.noted) == (1, {"answer_text_differs": 1})
    assert "mine: 1 noted (answer_text_differs)" in caplog.text


def test_what_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file") as missing:
        read_source("alpaca", tmp_path / "none.json", "alpaca-cleaned")
    assert "--source alpaca-cleaned=FILE" in missing.value.hint
    with pytest.raises(SettingsError, match="format is 'alpacca'") as unknown:
        read_source("alpacca", tmp_path / "none.json", "mine")
    assert unknown.value.hint == "Did you mean alpaca?"


def test_a_hub_that_cannot_be_reached_says_what_to_give() -> None:
    with pytest.raises(UnavailableError) as caught:
        read_source("alpaca", HubSplit("yahma/alpaca-cleaned", "train"), "alpaca-cleaned")
    assert caught.value.message.startswith("alpaca-cleaned: yahma/alpaca-cleaned, train split cannot be read")
    assert "--source alpaca-cleaned=FILE" in caught.value.hint


def test_hub_rows_are_read_with_their_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ALPACA, ALPACA | {"output": "Tin."}]
    monkeypatch.setattr("biomedllama_cli.tasks.hub._load_split", lambda source, key: (rows, None))
    monkeypatch.setattr("biomedllama_cli.tasks.hub._find_revision", lambda source, rows, asked: "c0ffee")
    loaded = load_source("alpaca", HubSplit("yahma/alpaca-cleaned", "train"), "alpaca-cleaned")
    assert texts(loaded.examples) == [("Name a metal.", "Iron."), ("Name a metal.", "Tin.")]
    assert (loaded.origin.kind, loaded.origin.revision, loaded.origin.sha256) == ("hub", "c0ffee", None)


def test_reading_loads_no_heavy_library(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ALPACA)
    script = (
        "import sys, pathlib\n"
        "from biomedllama_cli.instructions.sources.catalogue import read_source\n"
        "assert read_source('alpaca', pathlib.Path(sys.argv[1]), 'mine')\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'peft') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
