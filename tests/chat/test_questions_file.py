"""A file of questions is read whole, or everything that is wrong with it is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.chat import questions_file
from biomedllama_cli.chat.questions_file import FileQuestion, load_questions, read_questions
from biomedllama_cli.errors import DataError

TURNS = [
    {"role": "user", "content": "What is insulin?"},
    {"role": "assistant", "content": "A hormone."},
    {"role": "user", "content": " What does it do? "},
]
EARLIER = (("user", "What is insulin?"), ("assistant", "A hormone."))


def write(folder: Path, *records: Any) -> Path:
    path = folder / "questions.jsonl"
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_questions_prompts_conversations_and_instructions_are_read_in_their_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"question": "  Is iron a metal? "},
        {"id": 7, "prompt": "Name a bone.", "label": "kept out"},
        {"id": "c", "messages": TURNS},
        {"instruction": "Translate.", "input": "os longum"},
        {"instruction": "Say hello.", "input": ""},
    )
    assert read_questions(path) == (
        FileQuestion("0", "Is iron a metal?"),
        FileQuestion("7", "Name a bone."),
        FileQuestion("c", "What does it do?", EARLIER),
        FileQuestion("3", "Translate.\n\nos longum"),
        FileQuestion("4", "Say hello."),
    )


def test_a_system_message_of_its_own_stands_instead_of_the_general_one(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"question": "a"},
        {"question": "b", "system": "Be brief."},
        {"question": "c", "system": ""},
        {"messages": [{"role": "system", "content": "Rhyme."}, *TURNS]},
    )
    first = [question.turns[:1] for question in read_questions(path, " Be kind. ")]
    assert first == [
        (("system", "Be kind."),),
        (("system", "Be brief."),),
        (),
        (("system", "Rhyme."),),
    ]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"id": "a"}, "has no `question`, `prompt`, `messages` or `instruction`; it must have one of them"),
        ({"question": "a", "prompt": "b"}, "has `question` and `prompt`; it must have one of them"),
        ({"question": " "}, "field `question` is blank"),
        ({"question": 3}, "field `question` is int; it must be text"),
        ({"messages": TURNS[:2]}, "the last message is the assistant's; it must be the user's"),
        ({"messages": TURNS[1:]}, r"messages\[0\] is the assistant's where the user's must stand"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "role is 'tool'"),
        ({"question": "a", "system": 3}, "field `system` is int; it must be text"),
        ({"question": "a", "id": 1.5}, "field `id` is 1.5; it must be text or a whole number"),
        ({"question": "\ud800"}, "lone surrogate"),
        (
            {"messages": [{"role": "system", "content": "a"}, *TURNS], "system": "b"},
            "field `system` is there, and `messages` begins with a system message",
        ),
        ("{", "not valid JSON"),
        ("3", "a record is a number"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_field(tmp_path: Path, record: Any, told: str) -> None:
    path = write(tmp_path, {"question": "fine"}, record)
    with pytest.raises(DataError, match=told) as error:
        read_questions(path)
    assert error.value.message.startswith(f"{path} line 2")
    assert error.value.hint


def test_all_problems_are_told_at_once_and_those_beyond_twenty_counted(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "fine"}, *["{"] * 12, *[{"question": ""}] * 12)
    with pytest.raises(DataError) as error:
        read_questions(path)
    lines = error.value.message.splitlines()
    assert lines[0] == "24 records are wrong:"
    assert len(lines) == 22
    assert lines[-1].strip() == "and 4 more"


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "a"}, {"question": "b", "id": 0})
    with pytest.raises(DataError, match=f"field `id` is '0', as in {path} line 1"):
        read_questions(path)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file holds no question"):
        read_questions(write(tmp_path, ""))
    with pytest.raises(DataError, match="there is no such file"):
        read_questions(tmp_path / "absent.jsonl")


def test_a_file_that_is_written_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, {"question": "a"})
    assert load_questions(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    def read(path: Path, system: str) -> tuple[FileQuestion, ...]:
        write(tmp_path, {"question": "b"})
        return read_questions(path, system)

    monkeypatch.setattr(questions_file, "read_questions", read)
    with pytest.raises(DataError, match="was changed while it was read"):
        load_questions(path)
