"""`--print-config` and `--preset list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from biomedllama_cli.cli.app import run
from biomedllama_cli.settings.leaves import TREES, iter_leaves, load_tree
from biomedllama_cli.settings.preset import list_presets


def test_each_value_is_shown_with_its_origin_and_nothing_runs(process: Any, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("batch: {micro_batch_size: 4}\n")
    result = process(
        *[
            "pretrain",
            "--preset",
            "published",
            "--config",
            "my.yaml",
            "--seed",
            "9",
            "--no-tf32",
            "--print-config",
        ],
        environment={"BIOMEDLLAMA_OPTIMIZER__WEIGHT_DECAY": "0.2"},
    )
    assert result.returncode == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for line in (
        "command: pretrain",
        "seed: 9 # flag --seed",
        "sequence_length: 2048 # preset published",
        "micro_batch_size: 4 # file my.yaml",
        "weight_decay: 0.2 # environment BIOMEDLLAMA_OPTIMIZER__WEIGHT_DECAY",
        "tf32: false # flag --no-tf32",
        "adam_epsilon: 1.0e-08 # default",
    ):
        assert line in lines
    assert list(tmp_path.iterdir()) == [tmp_path / "my.yaml"]


@pytest.mark.parametrize("command", list(TREES))
@pytest.mark.parametrize("with_preset", [True, False])
def test_the_printed_configuration_is_a_file_that_config_takes_back(
    command: str, with_preset: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    presets = list_presets(command)
    chosen = ["--preset", next(iter(presets))] if with_preset and presets else []
    assert run([command, *chosen, "--print-config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert run([command, *chosen, "--print-config", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run([command, "--config", str(printed), "--print-config", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["settings"] == first["settings"]
    assert set(again["origins"].values()) == {f"file {printed}"}
    assert list(first["origins"]) == [leaf.dotted for leaf in iter_leaves(load_tree(command))]


def test_text_that_yaml_would_misread_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("no", "12", "a: b # c", "", "line\nbreak", "心"):
        assert run(["pretrain", "--model", text, "--print-config"]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["model"] == text


@pytest.mark.parametrize("command", list(TREES))
def test_the_presets_are_listed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--preset", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    presets = list_presets(command) or {command: "has no presets."}
    assert [line.split(maxsplit=1) for line in lines] == [list(each) for each in presets.items()]
    assert run([command, "--preset", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["presets"] == list_presets(command)
