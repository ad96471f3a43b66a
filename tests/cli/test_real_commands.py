"""The commands as real processes, where they stop before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

STOPS = [
    (
        ["prepare", "--input", "missing.jsonl", "--output-dir", "out", "--vocabulary-size", "300"],
        3,
        "missing.jsonl",
    ),
    (["pretrain"], 3, "biomedllama prepare"),
    (["finetune"], 4, "--model"),
    (["instruct"], 4, "--model"),
    (["evaluate"], 4, "--model"),
    (["chat", "--prompt", "Is water wet?"], 4, "--model"),
    (["chat", "--model", "missing/", "--prompt", "Is water wet?"], 4, "missing/"),
]


@pytest.mark.parametrize(("arguments", "code", "named"), STOPS, ids=lambda value: str(value)[:20])
def test_a_command_that_cannot_start_says_why_in_its_two_lines(
    process: Any, tmp_path: Path, arguments: list[str], code: int, named: str
) -> None:
    result = process(*arguments)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()  # and no chatter of a library
    assert error.startswith("Error: ")
    assert hint.startswith("Hint: ")
    assert named in error + hint
    assert list(tmp_path.iterdir()) == []


def test_with_json_the_reason_is_the_document(process: Any) -> None:
    result = process("pretrain", "--json")
    assert result.returncode == 3
    content = json.loads(result.stdout)["error"]
    assert (content["kind"], content["exit_code"]) == ("DataError", 3)
