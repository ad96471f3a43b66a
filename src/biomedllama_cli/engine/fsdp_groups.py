"""Which parameters FSDP gathers together, known of a model before it is sharded, on the meta device as well."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from biomedllama_cli.engine.traffic import ParameterGroup
from biomedllama_cli.errors import ModelError


def find_decoder_layer_names(model: PreTrainedModel) -> list[str]:
    """Return the class names of the model's decoder layers, as transformers declares them.

    Raises:
        ModelError: none of the declared classes is in the model.
    """
    declared = set(model._no_split_modules or [])
    names = sorted({type(module).__name__ for module in model.modules()} & declared)
    if not names:
        raise ModelError(
            f"{type(model).__name__} does not declare its decoder layers, so it cannot be sharded.",
            "Train it in one process (--num-processes 1), or with --sharding replicate.",
        )
    return names


def group_parameters(model: PreTrainedModel) -> list[ParameterGroup]:
    """Return the groups that `accelerator.prepare` will shard a model in.

    Every decoder layer is one; an untied input table is one; the last norm and the output table (and the input table
    that is tied to it) are one, which is kept gathered between forward and backward pass; and so is the rest, if any.

    Raises:
        ModelError: the model does not say which of its modules is a decoder layer.
    """
    names, seen = find_decoder_layer_names(model), set[int]()
    layers = [module for module in model.modules() if type(module).__name__ in names]
    groups = [_group([layer], seen) for layer in layers]
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = head is not None and head.weight is table.weight
    if not is_tied:
        groups.append(_group([table], seen))
    norms = [module for module in model.base_model.children() if "Norm" in type(module).__name__][-1:]
    tail = [*norms, *([table] if is_tied else []), *([head] if head is not None else [])]
    groups.append(_group(tail, seen, is_kept=True))
    groups.append(_group([model], seen, is_kept=True))
    return [group for group in groups if group.shapes]


def _group(modules: list[torch.nn.Module], seen: set[int], *, is_kept: bool = False) -> ParameterGroup:
    shapes = []
    for module in modules:
        for parameter in module.parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                shapes.append(tuple(parameter.shape))
    return ParameterGroup(tuple(shapes), is_kept)
