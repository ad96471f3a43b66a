"""Command lines that cannot be understood: exit code 2, one sentence, a suggestion."""

from __future__ import annotations

import json
from typing import Any

import pytest

REFUSED = [
    (["pretian"], "No such command 'pretian'.", "Did you mean 'pretrain'?"),
    (["quantise"], "No such command 'quantise'.", "Run `biomedllama --help`."),
    (
        ["prepare", "--sedee", "3"],
        "--sedee is not an option of `biomedllama prepare`.",
        "Did you mean --seed?",
    ),
    (
        ["pretrain", "--optimizer.weight-decay", "3"],
        "--optimizer.weight-decay is not an option of `biomedllama pretrain`.",
        "Did you mean --weight-decay?",
    ),
    (
        ["pretrain", "--weight_decay", "3"],
        "--weight_decay is not an option of `biomedllama pretrain`.",
        "Did you mean --weight-decay?",
    ),
    (
        ["finetune", "--lr", "1e-5"],
        "--lr is not an option of `biomedllama finetune`.",
        "Did you mean --peak-learning-rate?",
    ),
    (
        ["instruct", "--batch-size", "8"],
        "--batch-size is not an option of `biomedllama instruct`.",
        "Did you mean --global-batch-size?",
    ),
    (
        ["finetune", "--seeds", "0,0,x"],
        "--seeds is '0,0,x', but must be whole numbers with commas between, such as 0,1,2.",
        "",
    ),
    (
        ["finetune", "--seeds", "0,1,0"],
        "--seeds is '0,1,0', but must name each seed once.",
        "",
    ),
    (["pretrain", "--seed"], "Option '--seed' requires an argument.", "Run `biomedllama pretrain --help`."),
    (
        ["pretrain", "more"],
        "Got unexpected extra argument(s) (more).",
        "Run `biomedllama pretrain --help`.",
    ),
    (
        ["chat", "Is water wet?"],
        "Got unexpected extra argument(s) (Is water wet?).",
        'A question is given by --prompt: biomedllama chat --prompt "...".',
    ),
    (["prepare", "--seed", "x"], "--seed is 'x', but must be a whole number.", ""),
    (
        ["evaluate", "--preset", "publishd"],
        "--preset is 'publishd', but evaluate has no preset of that name.",
        "Did you mean published?",
    ),
    (
        ["evaluate", "--config", "missing.yaml"],
        "--config is missing.yaml, but there is no such file.",
        "",
    ),
]


@pytest.mark.parametrize(("arguments", "message", "hint"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_wrong_command_line_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    from biomedllama_cli.cli.app import run

    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"Error: {message}\n" + (f"Hint: {hint}\n" if hint else "")


@pytest.mark.parametrize(("arguments", "message", "hint"), REFUSED[2:], ids=lambda value: str(value)[:40])
def test_with_json_the_refusal_is_the_only_document_on_stdout(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    from biomedllama_cli.cli.app import run

    assert run([arguments[0], "--json", *arguments[1:]]) == 2
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    expected = {"message": message, "hint": hint, "exit_code": 2, "kind": "SettingsError"}
    assert content == {"error": expected}
    assert captured.err == ""


def test_a_misspelt_environment_variable_is_refused_by_a_real_process(process: Any) -> None:
    result = process("prepare", "--print-config", environment={"BIOMEDLLAMA_SEDE": "7"})
    assert result.returncode == 2
    assert result.stderr == (
        "Error: The environment variable BIOMEDLLAMA_SEDE is not a setting of any command.\n"
        "Hint: Did you mean BIOMEDLLAMA_SEED?\n"
    )
