"""Every setting has one flag, one environment name and a description."""

from __future__ import annotations

from collections import Counter

import pytest

from biomedllama_cli.cli.options import build_options
from biomedllama_cli.settings.leaves import TREES, find_command, iter_leaves, load_tree

COMMANDS = list(TREES)


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_are_unique_per_command_common_options_included(command: str) -> None:
    flags = Counter(
        flag for option in build_options(command) for flag in (*option.opts, *option.secondary_opts)
    )
    assert [flag for flag, times in flags.items() if times > 1] == []
    leaves = iter_leaves(load_tree(command))
    assert {leaf.name if leaf.positional else leaf.flag for leaf in leaves} <= set(flags)
    assert "--help" not in flags


@pytest.mark.parametrize("command", COMMANDS)
def test_every_leaf_and_section_is_described(command: str) -> None:
    leaves = list(iter_leaves(load_tree(command)))
    assert [leaf.dotted for leaf in leaves if len(leaf.description) < 5] == []
    assert [leaf.dotted for leaf in leaves if len(leaf.path) > 1 and not leaf.section] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tree_belongs_to_its_command(command: str) -> None:
    assert find_command(load_tree(command)) == command


def test_a_leaf_knows_its_names() -> None:
    leaves = {leaf.dotted: leaf for leaf in iter_leaves(load_tree("pretrain"))}
    leaf = leaves["optimizer.peak_learning_rate"]
    assert leaf.flag == "--peak-learning-rate"
    assert leaf.environment == "BIOMEDLLAMA_OPTIMIZER__PEAK_LEARNING_RATE"
    assert leaf.section == "AdamW"
    assert leaf.type_name == "float"
    assert leaves["seed"].environment == "BIOMEDLLAMA_SEED"
    assert leaves["numerics.precision"].choices == ("bf16", "fp16", "fp32")
    assert leaves["corpus"].optional
    assert leaves["corpus"].default_text == "the newest one in the workspace"
    assert "[default" not in leaves["corpus"].description


def test_what_is_given_by_its_place_has_a_word_and_no_flag() -> None:
    (run,) = [leaf for leaf in iter_leaves(load_tree("curves")) if leaf.positional]
    assert (run.name, run.flag, run.environment, run.type_name) == ("run", "RUN", "BIOMEDLLAMA_RUN", "path")
    (option,) = [option for option in build_options("curves") if option.param_type_name == "argument"]
    assert (option.name, option.metavar, option.required) == ("run", "RUN", False)


def test_names_fixed_from_the_start_are_there() -> None:
    fixed = {
        "prepare": "--input --subset --tokenizer --output-dir --sample",
        "pretrain": "--corpus --model --output-dir --num-processes --resume --precision --attention",
        "evaluate": "--model --task --data --shots --limit --dtype --seed",
        "chat": "--model --compare --prompt --file --output --corpus --seed --quantize --save --load",
    }
    for command, flags in fixed.items():
        assert set(flags.split()) <= {leaf.flag for leaf in iter_leaves(load_tree(command))}
