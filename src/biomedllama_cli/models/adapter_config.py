"""The description of a LoRA adapter: from our settings, from strangers' files, and back to peft's JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from biomedllama_cli.errors import ModelError, SettingsError
from biomedllama_cli.models.adapter_folder import AdapterFolder
from biomedllama_cli.settings.tuning import AdapterSettings

if TYPE_CHECKING:
    from peft import LoraConfig

# What the weights of an adapter mean depends on these fields alone; one that uses any other field is refused.
_KNOWN = (
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
)
# Fields that say nothing about the merged weights.
_IRRELEVANT = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
)
# Ways to begin that leave the base's weights as they are; others (pissa, olora, loftq, ...) change them.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def build_config(model: PreTrainedModel, settings: AdapterSettings) -> LoraConfig:
    """Return peft's description of the adapters that the settings ask for.

    Raises:
        SettingsError: a target module is not a linear layer of the decoder.
    """
    from peft import LoraConfig, TaskType

    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=settings.method == "dora",
        target_modules=choose_targets(list_linear_layers(model), settings.target_modules),
    )


def list_linear_layers(model: PreTrainedModel) -> list[str]:
    """Return the full names of the decoder's linear layers: all but the output table."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]


def choose_targets(layers: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the names of layers that get an adapter, sorted: those that are asked for, or all kinds there are.

    >>> choose_targets(["layers.0.q_proj", "layers.0.v_proj", "layers.1.q_proj", "layers.1.v_proj"], [])
    ['q_proj', 'v_proj']

    Args:
        layers: full names of the linear layers.
        wanted: last parts of such names, or whole names.

    Raises:
        SettingsError: a name fits no layer.
    """
    # A last part that is a number (of a list of layers) would name other modules as well.
    kinds = {last if not (last := name.rpartition(".")[2]).isdigit() else name for name in layers}
    for name in wanted:
        if not any(layer == name or layer.endswith(f".{name}") for layer in layers):
            raise SettingsError(
                f"adapter.target_modules: {name!r} is not a linear layer of this model's decoder.",
                hint=f"There are {', '.join(sorted(kinds))}; leave --target-modules out for all of them.",
            )
    return sorted(set(wanted) or kinds)


def read_config(adapter: AdapterFolder) -> LoraConfig:
    """Return peft's description of an adapter of anybody's, fields that would run or change something left out.

    Raises:
        ModelError: it is not LoRA or DoRA, or uses a part of peft that is not known here.
    """
    from peft import LoraConfig

    config = adapter.config
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"model: the adapter {adapter.folder} is of type {config.get('peft_type')}, but must be LORA.",
            hint="Merge it into its base with peft, and give the merged folder.",
        )
    defaults = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    for name, value in sorted(config.items()):
        if name in _KNOWN or name in _IRRELEVANT or not value or value == defaults.get(name):
            continue
        if name == "init_lora_weights" and value in _PLAIN_STARTS:
            continue
        raise ModelError(
            f"model: the adapter {adapter.folder} sets {name}, which is not supported.",
            hint="Merge it into its base with peft, and give the merged folder.",
        )
    try:
        return LoraConfig(
            **{name: config[name] for name in _KNOWN if config.get(name) is not None},
            init_lora_weights=False,  # the weights come from the file
            inference_mode=True,
        )
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"model: the adapter_config.json of {adapter.folder} is broken: {error}", hint="Save it again."
        ) from error


def format_config(config: LoraConfig) -> str:
    """Return the JSON that peft reads, sets in order, so that equal adapters have equal files."""
    content: dict[str, Any] = config.to_dict()
    for name, value in content.items():
        if isinstance(value, set):
            content[name] = sorted(value)
    return json.dumps(content | {"inference_mode": True}, indent=2, sort_keys=True) + "\n"
