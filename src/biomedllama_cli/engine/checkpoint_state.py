"""The tensors of a checkpoint: which there are, and how they come back into a model's optimizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from biomedllama_cli.engine.checkpoint_folder import STATE, explain_unreadable
from biomedllama_cli.engine.own_rows import find_own_rows
from biomedllama_cli.engine.step import full_tensor
from biomedllama_cli.errors import DataError
from biomedllama_cli.models.adapters import has_adapter
from biomedllama_cli.models.tensor_files import TensorFile

logger = logging.getLogger(__name__)

OPTIMIZER_FILE, RANDOM_FILE = f"{STATE}/optimizer.safetensors", f"{STATE}/rng.safetensors"


def list_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a whole model by name, sharded as they are; tied tables once."""
    weights = list_tensors(model)
    if model.config.tie_word_embeddings:
        for name in model.all_tied_weights_keys:
            weights.pop(name, None)
    return weights


def list_moments(model: torch.nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """Return `parameter.moment` -> tensor for all that an optimizer keeps, sharded as it is."""
    names = name_parameters(model)
    return {
        f"{names[parameter]}.{moment}": value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for parameter, moments in unwrap_optimizer(optimizer).state.items()
        for moment, value in moments.items()
    }


def list_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's parameters and buffers themselves; sharded ones as they lie between steps."""
    # A module that was compiled in its place has its name for it in theirs.
    return {
        name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict(keep_vars=True).items()
    }


def name_parameters(model: torch.nn.Module) -> dict[torch.Tensor, str]:
    """Return the name of each parameter; of a tied one the first."""
    names: dict[torch.Tensor, str] = {}
    for name, tensor in list_tensors(model).items():
        names.setdefault(tensor, name)
    return names


def gather_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return tensors whole and on the CPU, one after the other; every rank must call it.

    With adapters those are the trained ones: gathering 7 billion frozen weights to save a few million would hold up
    every rank.
    """
    tensors: dict[str, torch.Tensor]
    if has_adapter(model):
        tensors = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    else:
        assert isinstance(model, PreTrainedModel)
        tensors = list_weights(model)
    return {name: full_tensor(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}


def load_optimizer(checkpoint: Path, model: torch.nn.Module, optimizer: Any) -> None:
    """Put the saved moments into a freshly built optimizer; each rank reads its own rows of them.

    The parameter groups are those of the settings; only the moments come from the file.

    Raises:
        DataError: the file is broken, or of another model.
    """
    plain = unwrap_optimizer(optimizer)
    names = name_parameters(model)
    state: dict[int, dict[str, torch.Tensor]] = {}
    try:
        with TensorFile(checkpoint / OPTIMIZER_FILE) as file:
            left = set(file.names)
            moments: dict[str, list[str]] = {}
            for key in file.names:
                moments.setdefault(key.rpartition(".")[0], []).append(key)
            parameters = [parameter for group in plain.param_groups for parameter in group["params"]]
            for number, parameter in enumerate(parameters):
                for key in moments.get(names[parameter], []):
                    moment = key.rpartition(".")[2]
                    state.setdefault(number, {})[moment] = read_moment(file, key, parameter)
                    left.discard(key)
    except (OSError, ValueError) as error:
        raise explain_unreadable(checkpoint, error) from error
    kinds = max((set(one) for one in state.values()), key=len, default=set())
    lacking = [number for number in range(len(parameters)) if state.get(number, {}).keys() != kinds]
    if left or lacking:
        what = (
            f"moments of {sorted(left)[0]}" if left else f"no moments of {len(lacking)} tensors, or not all"
        )
        raise DataError(
            f"resume: {checkpoint} does not fit the model: it holds {what}.",
            hint="Resume an earlier checkpoint with --resume PATH, or start from its weights alone with --model.",
        )
    plain.load_state_dict({"state": state, "param_groups": plain.state_dict()["param_groups"]})


def read_moment(file: TensorFile, key: str, parameter: torch.Tensor) -> torch.Tensor:
    """Return one moment, sharded as the parameter it belongs to.

    Raises:
        ValueError: it has another shape.
    """
    shape = file.read_shape(key)
    if shape == ():
        return file.read(key)
    if shape != tuple(parameter.shape):
        raise ValueError(f"{key} has the shape {list(shape)}, and its parameter {list(parameter.shape)}")
    moment = torch.zeros_like(parameter, requires_grad=False)
    own = find_own_rows(moment)
    own.rows.copy_(file.read_rows(key, own.start, own.start + len(own.rows)))
    return moment


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer inside Accelerate's wrapper."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def gather_random_states(accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """Return the random states of all ranks, uint8 [world_size, bytes], by device type."""
    states = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    return {
        name: accelerator.gather(state.to(accelerator.device)[None]).cpu().contiguous()
        for name, state in states.items()
    }


def restore_scaler(checkpoint: Path, accelerator: Accelerator, state: Mapping[str, float]) -> None:
    """Restore the loss scaling of fp16, where this run and the one before have it.

    Raises:
        DataError: the state is none.
    """
    if accelerator.scaler is not None and state:
        try:
            accelerator.scaler.load_state_dict(dict(state))
        except (KeyError, RuntimeError, TypeError) as error:
            raise explain_unreadable(checkpoint, error) from error


def restore_random_states(checkpoint: Path, accelerator: Accelerator) -> None:
    """Restore this rank's random states, where the run had as many ranks as now.

    Raises:
        DataError: the file is broken.
    """
    try:
        with TensorFile(checkpoint / RANDOM_FILE) as file:
            states = {name: file.read(name) for name in file.names}
        if len(states["cpu"]) != accelerator.num_processes:
            logger.info("the number of processes changed: random states start anew")
            return
        # Copies: torch 2.13 reads a view's storage from its start (another rank's state, or a crash).
        torch.set_rng_state(states["cpu"][accelerator.process_index].clone())
        if "cuda" in states and accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"][accelerator.process_index].clone(), accelerator.device)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise explain_unreadable(checkpoint, error) from error
