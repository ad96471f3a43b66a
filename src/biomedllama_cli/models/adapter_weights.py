"""The tensors of an adapter: put into a model, read from a file, and merged into the weights they adapt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.adapter_config import read_config
from biomedllama_cli.models.adapter_folder import WEIGHTS_FILE, AdapterFolder

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER_NAME = "default"
PREFIX = "base_model.model."
"""What peft puts before every name in an adapter's file."""


def merge_weights(model: PreTrainedModel, adapter: AdapterFolder) -> None:
    """Add an adapter to the weights of its base, in fp32, one layer after the other.

    The layers keep the dtype they have. A table of embeddings that an adapter changes is no longer tied.

    Raises:
        ModelError: the adapter does not fit the model, or is not supported.
    """
    from peft.tuners.lora import LoraLayer, LoraModel

    config = read_config(adapter)
    tied = bool(model.config.tie_word_embeddings)
    try:
        tuner = LoraModel(model, config, ADAPTER_NAME)
    except (TypeError, ValueError) as error:
        raise _explain(adapter, error) from error
    keep_adapters_in_fp32(model)
    load_weights(model, adapter)
    if tied:
        _untie_changed_table(model)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            _merge_layer(module, adapter)
    tuner.unload()
    model.requires_grad_(True)


def keep_adapters_in_fp32(model: PreTrainedModel) -> None:
    """Make a model's adapters fp32: peft makes them in the dtype of the weights beside them."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()


def load_weights(model: PreTrainedModel, adapter: AdapterFolder) -> None:
    """Fill a model's adapters from a folder; every tensor must be there, and no other.

    Raises:
        ModelError: the file is broken, or its tensors are not those of the model's adapters.
    """
    from peft import set_peft_model_state_dict

    try:
        tensors = load_file(adapter.folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise _explain(adapter, error) from error
    expected = name_tensors(model, dict(model.state_dict()))
    if odd := sorted(expected.keys() ^ tensors.keys()):
        where = "missing from its file" if odd[0] in expected else "unknown to the model"
        raise ModelError(
            f"model: the adapter {adapter.folder} does not fit its base: {odd[0]} is {where} "
            f"(one of {len(odd)} tensors).",
            hint="It was made for another model, or its vocabulary was resized.",
        )
    try:
        plain = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        set_peft_model_state_dict(model, plain, adapter_name=ADAPTER_NAME)
    except (RuntimeError, ValueError) as error:
        raise _explain(adapter, error) from error


def name_tensors(model: PreTrainedModel, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of a model's adapters by the names that peft's file has for them.

    Args:
        model: with adapters.
        tensors: by parameter name.
    """
    from peft import get_peft_model_state_dict

    named = get_peft_model_state_dict(
        model, state_dict=tensors, adapter_name=ADAPTER_NAME, save_embedding_layers=False
    )
    return {PREFIX + name: tensor for name, tensor in sorted(named.items())}


def _merge_layer(layer: LoraLayer, adapter: AdapterFolder) -> None:
    base: torch.nn.Module = layer.get_base_layer()
    dtype = next(base.parameters()).dtype
    layer.to(torch.float32)
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        raise _explain(adapter, error) from error
    base.to(dtype)


def _untie_changed_table(model: PreTrainedModel) -> None:
    """Give the output table weights of its own where an adapter changes it or the input table."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if not any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in (head, table)):
        return
    plain = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
    plain.weight = torch.nn.Parameter(plain.weight.detach().clone())
    model.config.tie_word_embeddings = False


def _explain(adapter: AdapterFolder, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:300]
    return ModelError(
        f"model: the adapter {adapter.folder} cannot be used with {adapter.base}: {reason}",
        hint="Was it made for this model?",
    )
