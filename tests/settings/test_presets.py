"""The presets that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.leaves import TREES, load_tree
from biomedllama_cli.settings.preset import list_presets, load_preset
from biomedllama_cli.settings.resolve import resolve_settings

PRESETS = [(command, name) for command in TREES for name in list_presets(command)]


def load(command: str, name: str) -> Any:
    return resolve_settings(load_tree(command), preset=name, config=None, environment={}, flags={}).settings


@pytest.mark.parametrize(("command", "name"), PRESETS)
def test_every_preset_is_valid_and_described(command: str, name: str) -> None:
    assert load(command, name) != load_tree(command)()
    assert len(list_presets(command)[name]) > 20


def test_the_presets_are_the_promised_ones() -> None:
    assert PRESETS == [
        ("prepare", "demo"),
        ("pretrain", "demo"),
        ("pretrain", "published"),
        ("pretrain", "published-script"),
        ("finetune", "laptop"),
        ("finetune", "published"),
        ("instruct", "laptop"),
        ("instruct", "published"),
        ("evaluate", "demo"),
        ("evaluate", "published"),
        ("chat", "laptop"),
    ]


def test_published_is_the_published_table() -> None:
    settings = load("pretrain", "published")
    assert settings.model == "huggyllama/llama-7b"
    assert (settings.batch.sequence_length, settings.batch.global_batch_size) == (2048, 2048)
    assert settings.optimizer.peak_learning_rate == 3e-5
    assert (settings.optimizer.adam_beta1, settings.optimizer.adam_beta2) == (0.9, 0.95)
    assert (settings.optimizer.weight_decay, settings.optimizer.max_grad_norm) == (0.1, 1.0)
    assert (settings.schedule.warmup_fraction, settings.schedule.final_learning_rate_fraction) == (0.03, 0.1)
    assert (settings.numerics.precision, settings.numerics.tf32) == ("bf16", True)
    assert settings.parallel.sharding == "hybrid-zero2"


def test_the_script_differs_from_the_table_in_its_rate_and_its_checkpoints() -> None:
    table, script = load("pretrain", "published"), load("pretrain", "published-script")
    assert script.optimizer.peak_learning_rate == 1e-5
    assert (script.checkpoint.save_every_steps, script.checkpoint.keep_checkpoints) == (3000, 3)
    same = {"optimizer": table.optimizer, "checkpoint": table.checkpoint}
    assert script.model_copy(update=same) == table


@pytest.mark.parametrize("command", ["finetune", "instruct"])
def test_published_tuning_is_the_published_recipe(command: str) -> None:
    settings = load(command, "published")
    assert settings.model == "huggyllama/llama-7b"
    assert (settings.batch.sequence_length, settings.batch.global_batch_size) == (2048, 128)
    assert settings.duration.epochs == 3
    optimizer = settings.optimizer
    assert (optimizer.peak_learning_rate, optimizer.weight_decay) == (2e-5, 1e-4)
    assert (optimizer.adam_beta1, optimizer.adam_beta2) == (0.9, 0.999)
    assert (settings.schedule.warmup_fraction, settings.schedule.final_learning_rate_fraction) == (0.03, 0)
    assert (settings.adapter.method, settings.rows.template) == ("full", "plain")
    assert (settings.numerics.precision, settings.numerics.tf32) == ("bf16", True)


def test_published_instruction_tuning_draws_as_often_as_published() -> None:
    mixture = load("instruct", "published").mixture
    assert (mixture.mixture, mixture.draws, mixture.validation_fraction) == ("paper", 50_000, 0)


def test_published_evaluation_is_the_published_protocol() -> None:
    settings = load("evaluate", "published")
    assert (settings.protocol.context_length, settings.compute.batch_size) == (2048, 2)
    assert (settings.compute.dtype, settings.seed) == ("fp16", 42)


def test_an_unknown_preset_and_one_of_another_command_are_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        load_preset("pretrain", "publishd")
    assert caught.value.hint == "Did you mean published?"
    with pytest.raises(SettingsError, match="a preset of pretrain, not of evaluate"):
        load_preset("evaluate", "published-script")
    with pytest.raises(SettingsError, match="has no preset of that name"):
        load_preset("pretrain", "../evaluate/published")


def test_a_preset_file_names_the_command_of_its_folder(repository: Path) -> None:
    folder = repository / "src" / "biomedllama_cli" / "settings" / "presets"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")) == sorted(
        f"{command}/{name}.yaml" for command, name in PRESETS
    )
