"""Checkpoints: a plain transformers folder, and beside it what a run needs to go on bit for bit.

    checkpoints/step-00000020/
        config.json, generation_config.json, model.safetensors (fp32), tokenizer files
        (with adapters: adapter_config.json, adapter_model.safetensors, base_model.json, tokenizer files)
        training_state/optimizer.safetensors    moments by parameter name, whole tensors: any world size reads them
        training_state/rng.safetensors          random states of every rank
        training_state/progress.json            step, and what must not change on resuming
        COMPLETE                                written last

A checkpoint is written under a temporary name, flushed to disk, renamed, and only then marked complete: after a kill
at any moment the last complete one is whole. Nothing is pickled.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel

from biomedllama_cli.engine.saved_runs import (
    CHECKPOINTS,
    MARKER,
    PREFIX,
    list_checkpoints,
    name_checkpoint,
    read_step,
)
from biomedllama_cli.engine.step import full_tensor
from biomedllama_cli.errors import DataError
from biomedllama_cli.models.adapters import has_adapter, save_adapter

logger = logging.getLogger(__name__)

STATE = "training_state"


@dataclass(frozen=True)
class Progress:
    """How far a run had come when it was saved.

    Attributes:
        step: optimizer steps done.
        tokens_seen: target tokens trained on.
        order: what fixes the order of sequences, by name; must be equal on resuming.
        grad_scaler: state of the fp16 loss scaling, empty in other precisions.
        best: step and held-out loss of the best checkpoint, and the looks since; empty where none is kept.
        gate: state of what may refuse updates; empty without one.
    """

    step: int
    tokens_seen: int
    order: dict[str, Any]
    grad_scaler: dict[str, float]
    best: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and where it starts from.

    Attributes:
        folder: the run folder.
        tokenizer_folder: copied into every checkpoint.
        order: what fixes the order of sequences, by name; saved in every checkpoint.
        resumed_from: checkpoint whose weights and optimizer were loaded, or None.
        progress: how far that checkpoint is.
        same_command_restarts: given again, the command would not continue this folder's newest checkpoint.
    """

    folder: Path
    tokenizer_folder: Path
    order: dict[str, Any]
    resumed_from: Path | None = None
    progress: Progress | None = None
    same_command_restarts: bool = False


def save_checkpoint(
    run: RunFolder, accelerator: Accelerator, model: PreTrainedModel, optimizer: Any, progress: Progress
) -> Path:
    """Save weights, optimizer and random state; every rank must call it, rank 0 writes.

    Returns:
        The finished checkpoint's folder.
    """
    final = name_checkpoint(run.folder, progress.step)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = gather_weights(model)
    moments = get_optimizer_state_dict(model, unwrap_optimizer(optimizer), options=options)
    random_states = gather_random_states(accelerator)
    if accelerator.is_main_process:
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(run.tokenizer_folder, temporary)
        (save_adapter if has_adapter(model) else save_weights)(model, weights, temporary)
        state = temporary / STATE
        state.mkdir()
        save_file(flatten_moments(moments), state / "optimizer.safetensors")
        save_file(random_states, state / "rng.safetensors")
        (state / "progress.json").write_text(json.dumps(progress.__dict__, indent=2), encoding="utf-8")
        flush_folder(temporary)
        if (
            final.exists()
        ):  # of an earlier attempt; unmarked first, so that a kill leaves no half folder complete
            (final / MARKER).unlink(missing_ok=True)
            shutil.rmtree(final)
        temporary.rename(final)
        (final / MARKER).touch()
        flush_folder(final.parent, deep=False)
        flush_folder(final, deep=False)
    accelerator.wait_for_everyone()
    return final


def gather_weights(model: torch.nn.Module) -> dict[str, Any]:
    """Return the tensors a checkpoint holds, whole and on the CPU; every rank must call it.

    With adapters those are the trained ones: gathering 7 billion frozen weights to save a few million would hold up
    every rank.
    """
    if not has_adapter(model):
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    trained = ((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad)
    return {name: full_tensor(tensor.detach()).cpu() for name, tensor in trained}


def save_weights(model: PreTrainedModel, weights: dict[str, Any], folder: Path) -> None:
    """Write a plain transformers folder; tied tables are written once."""
    plain = {name: tensor.contiguous() for name, tensor in weights.items()}
    if model.config.tie_word_embeddings:
        # Gathering made copies, which transformers would no longer recognise as one table.
        for name in model.all_tied_weights_keys:
            plain.pop(name, None)
    model.save_pretrained(folder, state_dict=plain)


def flatten_moments(optimizer_state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return `parameter.moment` -> tensor for the nested state of an optimizer."""
    return {
        f"{parameter}.{moment}": tensor.contiguous()
        for parameter, moments in optimizer_state.get("state", {}).items()
        for moment, tensor in moments.items()
    }


def load_optimizer(checkpoint: Path, model: torch.nn.Module, optimizer: Any) -> None:
    """Put the saved moments into a freshly built optimizer; each rank keeps its own shards of them."""
    plain = unwrap_optimizer(optimizer)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    # The parameter groups are those of the settings; only the moments come from the file.
    groups = get_optimizer_state_dict(model, plain, options=StateDictOptions())["param_groups"]
    state: dict[str, Any] = {}
    for key, tensor in load_file(checkpoint / STATE / "optimizer.safetensors").items():
        parameter, moment = key.rsplit(".", 1)
        state.setdefault(parameter, {})[moment] = tensor
    set_optimizer_state_dict(model, plain, {"state": state, "param_groups": groups}, options=options)


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


def restore_random_states(checkpoint: Path, accelerator: Accelerator) -> None:
    """Restore this rank's random states, where the run had as many ranks as now."""
    states = load_file(checkpoint / STATE / "rng.safetensors")
    if len(states["cpu"]) != accelerator.num_processes:
        logger.info("the number of processes changed: random states start anew")
        return
    # Copies: torch 2.13 reads a view's storage from its start (another rank's state, or a crash).
    torch.set_rng_state(states["cpu"][accelerator.process_index].clone())
    if "cuda" in states and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"][accelerator.process_index].clone(), accelerator.device)


def load_progress(checkpoint: Path) -> Progress:
    """Read how far a checkpoint is.

    Raises:
        DataError: the folder is not a complete checkpoint of a run.
    """
    if not (checkpoint / MARKER).is_file():
        raise DataError(
            f"resume: {checkpoint} is not a complete checkpoint of a run.",
            hint="Give a folder such as RUN/checkpoints/step-00001000 that holds a file COMPLETE.",
        )
    try:
        return Progress(**json.loads((checkpoint / STATE / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"resume: the training state of {checkpoint} cannot be read: {error}.",
            hint="Resume an earlier checkpoint with --resume PATH.",
        ) from error


def remove_old_checkpoints(run_folder: Path, keep: int, best_step: int | None = None) -> None:
    """Remove all but the newest complete checkpoints of a run and its best one, and leftovers of interrupted saves."""
    for folder in list_checkpoints(run_folder)[:-keep]:
        if read_step(folder) != best_step:
            (folder / MARKER).unlink()  # first, so that a kill leaves no half folder marked complete
    remove_leftovers(run_folder)


def remove_leftovers(run_folder: Path) -> None:
    """Remove what is no complete checkpoint: a kill left it while one was written or removed."""
    for pattern in (f"{PREFIX}*", f".{PREFIX}*.tmp"):
        for folder in sorted((run_folder / CHECKPOINTS).glob(pattern)):
            if not (folder / MARKER).is_file():
                shutil.rmtree(folder)


def flush_folder(folder: Path, *, deep: bool = True) -> None:
    """Flush a folder, and with `deep` everything in it, to the disk."""
    paths = [folder, *folder.rglob("*")] if deep else [folder]
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
