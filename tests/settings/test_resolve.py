"""Precedence, origins, and what each source refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.errors import ExitCode, SettingsError
from biomedllama_cli.settings.evaluate import EvaluateSettings
from biomedllama_cli.settings.finetune import FinetuneSettings
from biomedllama_cli.settings.instruct import InstructSettings
from biomedllama_cli.settings.leaves import iter_leaves
from biomedllama_cli.settings.prepare import PrepareSettings
from biomedllama_cli.settings.pretrain import PretrainSettings
from biomedllama_cli.settings.resolve import Resolved, resolve_settings

RATE = "optimizer.peak_learning_rate"
RATE_VARIABLE = "BIOMEDLLAMA_OPTIMIZER__PEAK_LEARNING_RATE"


def resolve(
    tree: Any = PretrainSettings,
    *,
    preset: str | None = None,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Resolved[Any]:
    return resolve_settings(
        tree, preset=preset, config=config, environment=environment or {}, flags=flags or {}
    )


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_each_source_overrides_the_one_before_and_is_the_origin(write: Any) -> None:
    config = write("optimizer:\n  peak_learning_rate: 2e-5\n")
    sources: list[tuple[dict[str, Any], float, str]] = [
        ({}, 3e-5, "default"),
        ({"preset": "published-script"}, 1e-5, "preset published-script"),
        ({"config": config}, 2e-5, f"file {config}"),
        ({"environment": {RATE_VARIABLE: "4e-5"}}, 4e-5, f"environment {RATE_VARIABLE}"),
        ({"flags": {"peak_learning_rate": "5e-5"}}, 5e-5, "flag --peak-learning-rate"),
    ]
    given: dict[str, Any] = {}
    for source, rate, origin in sources:
        given |= source
        resolved = resolve(**given)
        assert resolved.settings.optimizer.peak_learning_rate == rate
        assert resolved.origins[RATE] == origin
    assert resolved.origins["checkpoint.save_every_steps"] == "preset published-script"
    assert resolved.origins["seed"] == "default"


def test_origins_cover_every_leaf() -> None:
    assert list(resolve().origins) == [leaf.dotted for leaf in iter_leaves(PretrainSettings)]


def test_the_default_tree_is_the_tree_without_sources() -> None:
    assert resolve().settings == PretrainSettings()


def test_a_switch_turned_off_names_the_flag_that_did_it() -> None:
    resolved = resolve(flags={"tf32": False})
    assert resolved.settings.numerics.tf32 is False
    assert resolved.origins["numerics.tf32"] == "flag --no-tf32"


def test_none_of_a_flag_or_variable_unsets_an_optional_setting(write: Any) -> None:
    config = write("duration: {max_steps: 5}")
    assert resolve(config=config).settings.duration.max_steps == 5
    assert resolve(config=config, flags={"max_steps": "none"}).settings.duration.max_steps is None
    variable = {"BIOMEDLLAMA_DURATION__MAX_STEPS": "none"}
    assert resolve(config=config, environment=variable).settings.duration.max_steps is None
    with pytest.raises(SettingsError, match="--seed is 'none', but must be a whole number"):
        resolve(flags={"seed": "none"})


def test_yaml_reads_3e_5_as_text_and_it_is_a_number_all_the_same(write: Any) -> None:
    resolved = resolve(config=write("optimizer: {peak_learning_rate: 3e-4}"))
    assert resolved.settings.optimizer.peak_learning_rate == 3e-4


def test_several_values_come_as_a_list_or_as_one_value(write: Any) -> None:
    variable = "BIOMEDLLAMA_PROTOCOL__TASK"
    for sources in (
        {"config": write("protocol: {task: [medqa, pubmedqa]}")},
        {"environment": {variable: '["medqa", "pubmedqa"]'}},
        {"flags": {"task": ["medqa", "pubmedqa"]}},
    ):
        assert resolve(EvaluateSettings, **sources).settings.protocol.task == ("medqa", "pubmedqa")
    for sources in ({"config": write("protocol: {task: pubmedqa}")}, {"environment": {variable: "pubmedqa"}}):
        assert resolve(EvaluateSettings, **sources).settings.protocol.task == ("pubmedqa",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"seed": "x"}, "--seed is 'x', but must be a whole number."),
        ({"epochs": "0"}, "--epochs is '0', but must be greater than 0."),
        ({"epochs": "inf"}, "--epochs is 'inf', but must be a finite number."),
        ({"epochs": "nan"}, "--epochs is 'nan', but must be a finite number."),
        ({"warmup_fraction": "1.5"}, "--warmup-fraction is '1.5', but must be at most 1."),
        ({"warmup_steps": "-1"}, "--warmup-steps is '-1', but must be at least 0."),
        (
            {"precision": "bf61"},
            "--precision is 'bf61', but must be one of 'bf16', 'fp16' or 'fp32'.",
        ),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(flags: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(flags=flags)
    assert caught.value.message == message
    assert caught.value.exit_code == ExitCode.USAGE


def test_the_sentence_names_the_source_of_the_wrong_value(write: Any) -> None:
    config = write("seed: x")
    with pytest.raises(SettingsError, match=r"seed in .*my\.yaml is 'x', but must be a whole number"):
        resolve(config=config)
    with pytest.raises(SettingsError, match="BIOMEDLLAMA_SEED is 'x', but must be a whole number"):
        resolve(environment={"BIOMEDLLAMA_SEED": "x"})


def test_a_wrong_choice_is_suggested_its_neighbour() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(EvaluateSettings, flags={"profile": ["papr"]})
    assert caught.value.hint == "Did you mean paper?"


def test_a_rule_over_two_settings_is_said_in_its_own_words() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(PrepareSettings, flags={"sample": True, "input": ["a.jsonl"]})
    assert caught.value.message == (
        "source.sample and source.input exclude each other: give --sample or --input."
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("sede: 1", "sede in FILE is not a setting of pretrain.", "Did you mean seed?"),
        (
            "optimizer: {peak_lr: 1}",
            "optimizer.peak_lr in FILE is not a setting of pretrain.",
            "Did you mean optimizer.peak_learning_rate?",
        ),
        (
            "weight_decay: 0",
            "weight_decay in FILE is not a setting of pretrain.",
            "Did you mean optimizer.weight_decay?",
        ),
        (
            "protocol: {shots: 3}",
            "protocol in FILE is not a setting of pretrain, but of evaluate.",
            "Remove it, or run `biomedllama evaluate`.",
        ),
        (
            "command: evaluate",
            "--config is FILE, but that file is for 'evaluate', not for 'pretrain'.",
            "Run `biomedllama evaluate --config FILE`.",
        ),
        ("optimizer: 3", "optimizer in FILE is 3, but it is a section: a mapping of settings.", ""),
    ],
)
def test_a_file_with_a_key_of_its_own_is_refused(write: Any, text: str, message: str, hint: str) -> None:
    config = write(text)
    with pytest.raises(SettingsError) as caught:
        resolve(config=config)
    assert caught.value.message == message.replace("FILE", str(config))
    assert caught.value.hint == hint.replace("FILE", str(config))


def test_a_file_may_name_its_command_and_leave_a_section_empty(write: Any) -> None:
    resolved = resolve(config=write("command: pretrain\noptimizer:\nseed: 4\n"))
    assert resolved.settings.seed == 4


def test_a_long_value_is_shortened_in_the_message(write: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(config=write(f"seed: {'x' * 10_000}"))
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("tree", "saved"), [(PretrainSettings, 1000), (FinetuneSettings, 200), (InstructSettings, 200)]
)
def test_checkpoints_that_are_not_saved_cannot_be_kept(tree: Any, saved: int) -> None:
    with pytest.raises(SettingsError) as refused:
        resolve(tree, flags={"keep_every_steps": "1500", "save_every_steps": "400"})
    assert refused.value.message == (
        "--keep-every-steps is '1500', but must be a multiple of save_every_steps, which is 400: others are not saved."
    )
    with pytest.raises(SettingsError, match=f"which is {saved}: "):
        resolve(tree, flags={"keep_every_steps": str(saved // 2)})
    kept = resolve(tree, flags={"keep_every_steps": str(2 * saved)}).settings.checkpoint
    assert kept.keep_every_steps == 2 * saved
