from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from planted_results import question_cell, results, text_cell

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.cells import QuestionCell, Results, TextCell
from biomedllama_cli.report.leaderboard import build_leaderboard
from biomedllama_cli.report.leaderboard_arrangement import Leaderboard
from biomedllama_cli.report.table_terminal import Screen

GENERATION = {"max_new_tokens": 4, "temperature": 0.7, "top_p": 1.0, "chains": 1, "backend": "hf"}
MEDQA = "medqa \N{MIDDLE DOT} paper/1 \N{MIDDLE DOT} 0-shot"


def put(folder: Path, planted: Results) -> None:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(planted.model_dump_json(), encoding="utf-8")


def model(*cells: QuestionCell | TextCell, source: str, **facts: Any) -> Results:
    weights = facts.pop("weights_sha256", None) or (source * 64)[:64]
    return results(*cells, source=source, weights_sha256=weights, **facts)


def models_of(board: Leaderboard) -> list[str]:
    return [row.model for row in board.rows]


def values_of(board: Leaderboard, title: str) -> dict[str, int | None]:
    return {row.model: row.cells[title].correct for row in board.rows if title in row.cells}


def test_models_of_all_folders_stand_in_one_table_by_mean_rank(tmp_path: Path) -> None:
    put(tmp_path / "x" / "deep" / "a", model(question_cell(400), text_cell(0.7), source="a"))
    put(tmp_path / "b", model(question_cell(450), text_cell(0.8), source="b"))
    put(tmp_path / "c", model(question_cell(500), text_cell(0.6), source="c"))
    board = build_leaderboard(tmp_path)
    assert [(row.model, row.mean_rank, row.ranked) for row in board.rows] == [
        ("c", 1.0, 2),
        ("a", 2.5, 2),  # third of medqa, second of text: fewer bits are better
        ("b", 2.5, 2),
    ]
    assert values_of(board, MEDQA) == {"a": 400, "b": 450, "c": 500}


def test_a_named_column_sorts_and_a_model_without_it_is_last(tmp_path: Path) -> None:
    put(tmp_path / "a", model(question_cell(400), text_cell(0.7), source="a"))
    put(tmp_path / "b", model(question_cell(450), text_cell(0.8), source="b"))
    put(tmp_path / "c", model(text_cell(0.5), source="c"))
    assert models_of(build_leaderboard(tmp_path, sort="medqa")) == ["b", "a", "c"]
    by_text = build_leaderboard(tmp_path, sort="pubmed-abstracts")
    assert models_of(by_text) == ["c", "a", "b"]
    assert by_text.sorted_by.endswith("bits per byte")
    with pytest.raises(SettingsError, match="'medqs', which is no column"):
        build_leaderboard(tmp_path, sort="medqs")


def test_a_name_that_means_two_columns_is_no_column_to_sort_by(tmp_path: Path) -> None:
    put(tmp_path / "a", model(question_cell(400), question_cell(410, profile="clean/1"), source="a"))
    with pytest.raises(SettingsError, match="means 2 columns") as caught:
        build_leaderboard(tmp_path, sort="medqa")
    assert MEDQA in caught.value.hint


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"items_sha256": "9" * 64}, "items 999999"),
        ({"prompt": {"question": "Q: {question}"}}, "prompt "),
        ({"bos": "BOS (id 1)"}, "with BOS"),
        ({"context_length": 1024, "metrics": {"truncated_inputs": 1}}, "context 1,024"),
        ({"n": 100}, "n=100"),
        ({"metrics": {"headline": "acc_norm"}}, "acc_norm"),
    ],
)
def test_numbers_that_are_not_comparable_never_share_a_column(
    tmp_path: Path, change: dict[str, Any], shown: str
) -> None:
    put(tmp_path / "a", model(question_cell(50), source="a"))
    put(tmp_path / "b", model(question_cell(60, **change), source="b"))
    board = build_leaderboard(tmp_path)
    assert len(board.columns) == 2
    assert any(shown in column.title for column in board.columns)
    assert all(len(values_of(board, column.title)) == 1 for column in board.columns)
    assert [row.mean_rank for row in board.rows] == [None, None]  # nobody to be ranked against


def test_answers_generated_in_another_way_stand_in_other_columns_that_name_what_differs(
    tmp_path: Path,
) -> None:
    for name, change in {"a": {}, "b": {"chains": 2, "max_new_tokens": 12}, "c": {}}.items():
        put(tmp_path / name, model(question_cell(50, generation={**GENERATION, **change}), source=name))
    put(tmp_path / "d", model(question_cell(50), source="d"))  # of a version that did not write it down
    board = build_leaderboard(tmp_path)
    shared, other = f"{MEDQA} (chains 1, max new tokens 4)", f"{MEDQA} (chains 2, max new tokens 12)"
    titles = [column.title for column in board.columns]
    assert len(titles) == 3
    (column,) = [one for one in board.columns if len(values_of(board, one.title)) == 2]
    assert set(values_of(board, column.title)) == {"a", "c"}
    assert "chains 1, max new tokens 4" in column.title
    assert any("12 new tokens at most, temperature 0.7" in line for line in board.lines(Screen()))
    os.remove(tmp_path / "d" / "results.json")
    assert [one.title for one in build_leaderboard(tmp_path).columns] == [shared, other]


def test_other_examples_and_other_limited_draws_are_other_columns(tmp_path: Path) -> None:
    put(tmp_path / "a", model(question_cell(50, shots=3), source="a"))
    put(tmp_path / "b", model(question_cell(60, shots=3, draws_sha256="0" * 64), source="b"))
    assert len(build_leaderboard(tmp_path).columns) == 2
    limited = model(question_cell(50, n=100), source="a")
    put(tmp_path / "limited" / "a", limited)
    put(tmp_path / "limited" / "b", limited.model_copy(update={"seed": 7}))
    titles = [column.title for column in build_leaderboard(tmp_path / "limited").columns]
    assert titles == [f"{MEDQA} (seed 7)", f"{MEDQA} (seed 42)"]


def test_hashes_that_begin_alike_do_not_make_one_column(tmp_path: Path) -> None:
    put(tmp_path / "a", model(question_cell(50, items_sha256="a" * 63 + "1"), source="a"))
    put(tmp_path / "b", model(question_cell(60, items_sha256="a" * 63 + "2"), source="b"))
    board = build_leaderboard(tmp_path)
    assert len({column.title for column in board.columns}) == 2
    assert all(len(values_of(board, column.title)) == 1 for column in board.columns)


def test_text_of_another_window_or_prefix_is_another_column(tmp_path: Path) -> None:
    cells = [text_cell(0.8), text_cell(0.8, context_length=1024), text_cell(0.8, prefix="BOS (id 1)")]
    cells.append(text_cell(0.8, text_sha256="0" * 64))
    for number, cell in enumerate(cells):
        put(tmp_path / str(number), model(cell, source=f"m{number}"))
    put(tmp_path / "same", model(text_cell(0.7, prefix="EOS (id 50256)"), source="other-tokenizer"))
    board = build_leaderboard(tmp_path)
    assert sorted(sum(c.title in row.cells for row in board.rows) for c in board.columns) == [1, 1, 1, 2]


def test_context_lengths_that_cut_nothing_share_a_column(tmp_path: Path) -> None:
    put(tmp_path / "a", model(question_cell(50), source="a"))
    put(tmp_path / "b", model(question_cell(60, context_length=1024), source="b"))
    board = build_leaderboard(tmp_path)
    (column,) = board.columns
    assert (column.title, column.context_length) == (MEDQA, None)
    assert any("other context lengths, which cut no input" in line for line in board.lines(Screen()))


def test_lm_eval_s_tasks_have_bos_by_convention_too(tmp_path: Path) -> None:
    for name, bos in (("a", "BOS (id 1)"), ("b", "none")):
        put(tmp_path / name, model(question_cell(400, profile="harness/0.4.13", bos=bos), source=name))
    assert [column.bos for column in build_leaderboard(tmp_path).columns] == ["convention"]


def test_bos_by_convention_is_one_rule_and_marked_where_it_differs(tmp_path: Path) -> None:
    put(tmp_path / "a", model(question_cell(400, profile="clean/1", bos="BOS (id 1)"), source="a"))
    put(tmp_path / "b", model(question_cell(450, profile="clean/1", bos="none"), source="b"))
    board = build_leaderboard(tmp_path)
    (column,) = board.columns
    assert values_of(board, column.title) == {"b": 450, "a": 400}
    lines = board.lines(Screen())
    assert [line.rstrip().endswith("\N{DAGGER}") for line in lines[2:4]] == [True, False]
    assert any(line.startswith("\N{DAGGER} without BOS") for line in lines)


def test_the_newest_result_of_a_model_stands_and_older_ones_are_named(tmp_path: Path) -> None:
    put(tmp_path / "new", model(question_cell(450), source="a", created="2026-11-20T01:00:00+00:00"))
    put(tmp_path / "old", model(question_cell(400), source="a", created="2026-11-19T23:00:00-05:00"))
    board = build_leaderboard(tmp_path)
    assert values_of(board, MEDQA) == {"a": 400}  # 04:00 in UTC
    (older,) = board.older
    assert older.file == "new/results.json"
    assert "old/results.json is newer" in older.reason
    assert any("Older, not shown: new/results.json" in line for line in board.lines(Screen()))


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path / "1", model(question_cell(1), source="/data/one/final", weights_sha256="1" * 64))
    put(tmp_path / "2", model(question_cell(2), source="/data/two/final", weights_sha256="2" * 64))
    put(tmp_path / "3", model(question_cell(3), source="org/m", weights_sha256="3" * 64))
    put(tmp_path / "4", model(question_cell(4), source="org/m", weights_sha256="4" * 64))
    put(tmp_path / "5", model(question_cell(5), source="org/r", revision="main", weights_sha256="5" * 64))
    put(tmp_path / "6", model(question_cell(6), source="org/r", revision="v2", weights_sha256="5" * 64))
    put(tmp_path / "7", model(question_cell(7), source="/data/alone"))
    assert models_of(build_leaderboard(tmp_path)) == [
        "alone",
        "org/r (revision v2)",
        "org/r (revision main)",
        "org/m (weights 44444444)",
        "org/m (weights 33333333)",
        "/data/two/final",
        "/data/one/final",
    ]


def test_checkpoints_are_called_by_their_run_and_step_and_equal_names_by_their_path(tmp_path: Path) -> None:
    sources = ["a/runs/one", "a/runs/two", "b/runs/two"]
    for number, source in enumerate(sources):
        checkpoint = f"{source}/checkpoints/step-00000040"
        put(
            tmp_path / str(number),
            model(question_cell(3 - number), source=checkpoint, weights_sha256=f"{number}" * 64),
        )
    assert models_of(build_leaderboard(tmp_path)) == [
        "one-step-00000040",
        "a/runs/two/checkpoints/step-00000040",
        "b/runs/two/checkpoints/step-00000040",
    ]


def test_broken_foreign_and_older_files_are_listed_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path / "good", model(question_cell(400), source="a"))
    contents = {
        "broken": b"{",
        "binary": b"\xff\xfe\x00",
        "foreign": b'{"results": {"medqa": 0.3}}',
        "list": b"[]",
        "deep": b"[" * 100_000,
        "first": b'{"schema_version": "biomedllama.evaluate/1", "questions": {}}',
        "empty": b'{"schema_version": "biomedllama.evaluate/2"}',
    }
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes(content)
    (tmp_path / "folder" / "results.json").mkdir(parents=True)  # is no file
    board = build_leaderboard(tmp_path)
    reasons = {one.file.split("/")[0]: one.reason for one in board.skipped}
    assert models_of(board) == ["a"]
    assert set(reasons) == set(contents)
    assert "not valid JSON" in reasons["broken"]
    assert reasons["foreign"] == reasons["list"] == "not a result of biomedllama evaluate"
    assert "'biomedllama.evaluate/1'" in reasons["first"]
    assert "Field required" in reasons["empty"]
    assert sum(line.startswith("Skipped: ") for line in board.lines(Screen())) == len(contents)


def test_a_number_that_is_none_is_not_ranked(tmp_path: Path) -> None:
    planted = json.loads(model(question_cell(400), text_cell(0.8), source="a").model_dump_json())
    planted["texts"][0]["metrics"]["bits_per_byte"]["value"] = float("nan")
    (tmp_path / "results.json").write_text(json.dumps(planted))
    board = build_leaderboard(tmp_path)
    assert [column.task for column in board.columns] == ["medqa"]
    assert board.skipped[0].reason == "pubmed-abstracts under paper/1 has no finite value"


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no results\.json"):
        build_leaderboard(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        build_leaderboard(tmp_path / "nowhere")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    put(tmp_path / "a", model(question_cell(400), source="a"))
    os.symlink(tmp_path, tmp_path / "a" / "again")
    assert models_of(build_leaderboard(tmp_path)) == ["a"]


def test_csv_has_a_row_per_number_with_all_digits_counts_and_who_the_models_are(tmp_path: Path) -> None:
    put(tmp_path / "a", model(question_cell(400), text_cell(0.7), source="/data/a|b\nc"))
    board = build_leaderboard(tmp_path, format="csv")
    text = "\n".join(board.lines()) + "\n"
    record, other = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    assert record["source"] == "/data/a|b\nc"
    assert (record["column"], record["task"], record["shots"]) == (MEDQA, "medqa", "0")
    assert float(record["value"]) == 400 / 1273
    assert (record["correct"], record["n"]) == ("400", "1273")
    assert (other["score"], other["value"], other["correct"]) == ("bits_per_byte", "0.7", "")


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex"])
def test_hostile_names_keep_a_row_a_line(tmp_path: Path, form: Any) -> None:
    put(tmp_path / "a", model(question_cell(400), source="a|b\n\x1b[2Jc & d"))
    put(tmp_path / "b", model(question_cell(410), source="plain"))
    board = build_leaderboard(tmp_path).in_form(form)
    lines = board.lines(Screen())
    assert all(line.isprintable() for line in lines)
    assert sum("0.314" in line for line in lines) == 1


def test_the_document_is_versioned_and_the_same_for_any_order_of_reading(tmp_path: Path) -> None:
    planted = [model(question_cell(400 + number), source=f"m{number}") for number in range(4)]
    for number, one in enumerate(planted):
        put(tmp_path / "one" / f"{number}", one)
        put(tmp_path / "two" / f"{9 - number}", one)
    one, two = (build_leaderboard(tmp_path / name).model_dump(mode="json") for name in ("one", "two"))
    assert one["schema_version"] == "biomedllama.leaderboard/1"
    assert (
        [row["model"] for row in one["rows"]]
        == [row["model"] for row in two["rows"]]
        == ["m3", "m2", "m1", "m0"]
    )
    assert one["columns"] == two["columns"]
    assert Leaderboard.model_validate_json(json.dumps(one)).rows[0].model == "m3"


def test_a_picture_is_drawn_beside_the_table(tmp_path: Path) -> None:
    put(tmp_path / "a", model(question_cell(400), source="a"))
    board = build_leaderboard(tmp_path, plot=tmp_path / "board.svg")
    assert (tmp_path / "board.svg").read_text().startswith("<?xml")
    said = f"Plot: {tmp_path / 'board.svg'}"
    assert board.lines(Screen())[-2:] == ["", said]
    assert board.in_form("latex").lines()[-3:] == [r"\end{table}", "", f"% {said}"]
    assert board.in_form("markdown").lines()[-3:] == ["```text", said, "```"]
    assert said not in "\n".join(board.in_form("csv").lines())
