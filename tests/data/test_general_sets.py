"""The bundled general sets: what is in them, that they may be there, and that the questions' script makes them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from biomedllama_cli.data import GENERAL_FOLDER, GENERAL_QUESTIONS, GENERAL_SETS
from biomedllama_cli.tasks.own_questions import read_own_questions
from biomedllama_cli.tasks.records import iter_records

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", GENERAL_SETS)
def test_a_set_holds_a_hundred_short_documents_or_more(name: str) -> None:
    records = list(iter_records(GENERAL_FOLDER / f"{name}.jsonl"))
    texts = [record.text("text") for record in records]
    assert len(texts) >= 100
    assert len({record.text("id") for record in records}) == len(set(texts)) == len(texts)
    assert all(500 <= len(text) <= 3000 for text in texts)


def test_the_sets_are_small_and_every_file_stands_in_the_notice_that_is_shipped() -> None:
    files = [path for path in GENERAL_FOLDER.iterdir() if path.suffix == ".jsonl"]
    assert sum(path.stat().st_size for path in files) <= 600_000
    notice = GENERAL_FOLDER / "NOTICE.md"
    assert all(f"`{path.name}`" in notice.read_text() for path in files)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert str(notice.relative_to(ROOT)) in project["license-files"]
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in notice.read_text()


def test_the_questions_are_those_their_script_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    from general_questions import iter_general_questions

    stored = [json.loads(line) for line in GENERAL_QUESTIONS.read_text(encoding="utf-8").splitlines()]
    assert stored == list(iter_general_questions())
    questions = read_own_questions(GENERAL_QUESTIONS)
    assert len(questions) >= 100
    assert all(len(set(question.options)) == 4 for question in questions)
    assert len({question.question for question in questions}) == len(questions)
