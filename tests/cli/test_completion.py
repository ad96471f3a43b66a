"""Shell completion, through the protocol the installed script speaks."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("biomedllama pre", ["prepare", "pretrain"]),
        ("biomedllama evaluate --task med", ["medqa", "medqa-5", "medmcqa", "medxpertqa"]),
        ("biomedllama pretrain --preset ", ["demo", "published", "published-script", "list"]),
        ("biomedllama prepare --preset d", ["demo"]),
        ("biomedllama pretrain --precision fp", ["fp16", "fp32"]),
        ("biomedllama pretrain --peak-l", ["--peak-learning-rate"]),
        ("biomedllama pretrain --no-tf", ["--no-tf32"]),
        ("biomedllama prepare --print", ["--print-config"]),
    ],
)
def test_bash_completes(process: Any, words: str, expected: list[str]) -> None:
    result = process(
        environment={
            "_BIOMEDLLAMA_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
    )
    assert result.stdout.split() == expected
    assert result.stderr == ""


def test_zsh_shows_what_a_preset_is(process: Any) -> None:
    result = process(
        environment={
            "_BIOMEDLLAMA_COMPLETE": "complete_zsh",
            "_TYPER_COMPLETE_ARGS": "biomedllama evaluate --preset d",
        }
    )
    assert '"demo":"A few questions written for this project' in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_to_install_is_shown(process: Any, shell: str) -> None:
    result = process(
        "--show-completion", shell, environment={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    )
    assert result.returncode == 0
    assert f"_BIOMEDLLAMA_COMPLETE=complete_{shell}" in result.stdout
