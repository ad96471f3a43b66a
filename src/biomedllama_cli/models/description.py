"""The facts of a model that reports print and that its FLOPs are counted from."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelDescription:
    """The facts of a model that a report prints.

    Attributes:
        architecture: class name, as in `config.json`.
        parameters: all of them, tied ones once.
        parameters_without_embeddings: without the input table and an untied output table.
        matmul_parameters: those that multiply a token: all but an untied input table, and of experts as many as a token
            is sent to (N of the FLOPs formula).
        frozen_matmul_parameters: those of them that are not trained.
        layers: decoder layers.
        hidden_size: width of the residual stream.
        attention_size: query heads x head size, the width that enters the attention products.
        vocabulary_size: rows of the input table (padding rows included).
    """

    architecture: str
    parameters: int
    parameters_without_embeddings: int
    matmul_parameters: int
    frozen_matmul_parameters: int
    layers: int
    hidden_size: int
    attention_size: int
    vocabulary_size: int


def describe_model(model: PreTrainedModel) -> ModelDescription:
    """Return the facts of a model that a report prints."""
    config = model.config
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    tables = {id(embedding): embedding.numel()}
    if head is not None:
        tables[id(head.weight)] = head.weight.numel()
    parameters = sum(map(count_weights, model.parameters()))
    frozen = sum(count_weights(one) for one in model.parameters() if not one.requires_grad)
    idle, idle_frozen = count_idle_weights(model)
    looked_up = embedding.numel() if len(tables) > 1 else 0  # an untied input table multiplies nothing
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelDescription(
        architecture=type(model).__name__,
        parameters=parameters,
        parameters_without_embeddings=parameters - sum(tables.values()),
        matmul_parameters=parameters - looked_up - idle,
        frozen_matmul_parameters=frozen - (0 if embedding.requires_grad else looked_up) - idle_frozen,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        attention_size=config.num_attention_heads * head_size,
        vocabulary_size=embedding.shape[0],
    )


def count_idle_weights(model: PreTrainedModel) -> tuple[int, int]:
    """Return the weights of experts that a token is not sent to, and those of them that are not trained."""
    config = model.config.get_text_config(decoder=True)
    counts = [
        getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts")
    ]
    experts = next((count for count in counts if isinstance(count, int)), 0)
    taken = getattr(config, "num_experts_per_tok", None)
    found = [
        parameter
        for name, parameter in model.named_parameters()
        if "experts" in name.split(".") or (parameter.ndim == 3 and parameter.shape[0] == experts)
    ]
    if not found:
        return 0, 0
    if not isinstance(taken, int) or not 0 < taken <= experts:
        logger.warning(
            "%s does not say how many experts a token is sent to: FLOPs are counted as if to all, and are too many",
            type(config).__name__,
        )
        return 0, 0
    whole = sum(map(count_weights, found))
    frozen = sum(count_weights(one) for one in found if not one.requires_grad)
    return whole * (experts - taken) // experts, frozen * (experts - taken) // experts


def count_weights(parameter: torch.nn.Parameter) -> int:
    """Return the weights that a parameter holds: bitsandbytes packs two of 4 bits into every byte of its storage.

    >>> count_weights(torch.nn.Parameter(torch.zeros(2, 3)))
    6
    """
    packed = type(parameter).__name__ == "Params4bit" and getattr(parameter, "bnb_quantized", True)
    return parameter.numel() * (2 * parameter.element_size() if packed else 1)
