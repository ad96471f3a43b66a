"""Environment variables: read, checked, shared by all commands."""

from __future__ import annotations

import subprocess
import sys

import pytest

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.environment import read_environment
from biomedllama_cli.settings.evaluate import EvaluateSettings
from biomedllama_cli.settings.leaves import TREES, iter_leaves, load_tree
from biomedllama_cli.settings.prepare import PrepareSettings
from biomedllama_cli.settings.pretrain import PretrainSettings


@pytest.mark.parametrize("command", list(TREES))
def test_every_leaf_is_read_under_its_own_name(command: str) -> None:
    for leaf in iter_leaves(load_tree(command)):
        nested = read_environment(load_tree(command), {leaf.environment: "7"})
        for part in leaf.path[:-1]:
            assert list(nested) == [part]
            nested = nested[part]
        assert nested == {leaf.name: ["7"] if leaf.repeatable else "7"}


def test_a_name_of_another_command_is_left_alone() -> None:
    variables = {"BIOMEDLLAMA_PROTOCOL__SHOTS": "3", "BIOMEDLLAMA_SEED": "1"}
    assert read_environment(PrepareSettings, variables) == {"seed": "1"}
    assert read_environment(EvaluateSettings, variables) == {"seed": "1", "protocol": {"shots": "3"}}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("BIOMEDLLAMA_SEDE", "Did you mean BIOMEDLLAMA_SEED?"),
        ("BIOMEDLLAMA_WEIGHT_DECAY", "Did you mean BIOMEDLLAMA_OPTIMIZER__WEIGHT_DECAY?"),
        ("BIOMEDLLAMA_OPTIMIZER_WEIGHT_DECAY", "Did you mean BIOMEDLLAMA_OPTIMIZER__WEIGHT_DECAY?"),
        ("BIOMEDLLAMA_PROTOCOL__SHOT", "Did you mean BIOMEDLLAMA_PROTOCOL__SHOTS?"),
        ("BIOMEDLLAMA_QQQQQQ", ""),
    ],
)
def test_a_name_no_command_has_is_refused(name: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_environment(PretrainSettings, {name: "1"})
    assert caught.value.message == f"The environment variable {name} is not a setting of any command."
    assert caught.value.hint == hint


def test_an_empty_variable_counts_as_not_set() -> None:
    assert read_environment(PretrainSettings, {"BIOMEDLLAMA_SEED": ""}) == {}


def test_internal_and_foreign_names_are_not_ours_to_check() -> None:
    assert read_environment(PretrainSettings, {"_BIOMEDLLAMA_COMPLETE": "x", "BIOMED": "x"}) == {}


def test_pydantic_settings_is_loaded_only_when_a_variable_is_there() -> None:
    code = (
        "import sys; from biomedllama_cli.settings.environment import read_environment as read;"
        "from biomedllama_cli.settings.pretrain import PretrainSettings as tree;"
        "read(tree, {}); assert 'pydantic_settings' not in sys.modules;"
        "read(tree, {'BIOMEDLLAMA_SEED': '1'}); assert 'pydantic_settings' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
