"""Checkpoints: a plain transformers folder, and beside it what a run needs to go on bit for bit.

    checkpoints/step-00000020/
        config.json, generation_config.json, model.safetensors (fp32), tokenizer files
        (with adapters: adapter_config.json, adapter_model.safetensors, base_model.json, tokenizer files)
        training_state/optimizer.safetensors    moments by parameter name, whole tensors: any world size reads them
        training_state/rng.safetensors          random states of every rank
        training_state/progress.json            step, and what must not change on resuming
        COMPLETE                                written last

The files are the same whatever the number of processes: each writes the rows it holds into their places
(`models/tensor_files.py`), and nothing is gathered. A checkpoint is written under a temporary name, flushed to disk,
renamed, and only then marked complete: after a kill at any moment the last complete one is whole. Nothing is pickled.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import distributed
from transformers import PreTrainedModel

from biomedllama_cli.corpus.durable import name_temporary
from biomedllama_cli.engine.checkpoint_draft import Draft, ModelFiles, build_draft, describe_model_files
from biomedllama_cli.engine.checkpoint_folder import (
    Progress,
    RunFolder,
    load_progress,
    publish,
    remove_leftovers,
    remove_old_checkpoints,
)
from biomedllama_cli.engine.checkpoint_state import (
    gather_random_states,
    gather_weights,
    load_optimizer,
    restore_random_states,
    restore_scaler,
)
from biomedllama_cli.engine.checkpoint_writer import Writing, raise_together
from biomedllama_cli.engine.plan_cost import GIB
from biomedllama_cli.engine.saved_runs import name_checkpoint
from biomedllama_cli.engine.staging import Staging, claim_together
from biomedllama_cli.models.adapters import has_adapter, save_adapter
from biomedllama_cli.settings.pretrain import CheckpointSettings

__all__ = [
    "Progress",
    "RunFolder",
    "Saver",
    "gather_weights",
    "load_optimizer",
    "load_progress",
    "remove_leftovers",
    "remove_old_checkpoints",
    "restore_random_states",
    "restore_scaler",
]

logger = logging.getLogger(__name__)


@dataclass
class _Pending:
    """A checkpoint on its way."""

    final: Path
    progress: Progress
    writing: Writing
    stall_seconds: float


class Saver:
    """Saves the checkpoints of a run, one at a time, and removes those that are not kept.

    Every rank must make the same calls. What a call returns are numbers for metrics.jsonl: of a checkpoint that has
    become complete, else none.

    Args:
        run: where to.
        accelerator: of the job.
        settings: whether training goes on meanwhile, where there is memory for that, and what is kept.

    Attributes:
        newest: the newest complete checkpoint.
    """

    def __init__(self, run: RunFolder, accelerator: Accelerator, settings: CheckpointSettings) -> None:
        self._run, self._accelerator, self._settings = run, accelerator, settings
        in_background = settings.save_in_background
        if in_background is None:
            in_background = accelerator.device.type == "cuda"
        self._staging = Staging() if in_background else None
        self._is_room_known = False
        self._model_files: ModelFiles | None = None
        self._pending: _Pending | None = None
        self.newest = run.resumed_from

    def save(self, model: PreTrainedModel, optimizer: Any, progress: Progress) -> dict[str, Any]:
        """Write a checkpoint, or copy what it will hold and let that be written, once the one before is complete.

        Raises:
            OutputError: the disk is full or cannot be written; the checkpoint before is still there.
        """
        numbers = self.finish()
        began = time.perf_counter()
        final = name_checkpoint(self._run.folder, progress.step)
        temporary = name_temporary(final)
        draft = self._create(model, optimizer, progress, temporary)
        self._leave_out_copies(draft)
        if self._staging is None:
            writing = Writing(temporary, draft.pieces)
            writing.run()
        else:
            writing = Writing(temporary, self._staging.copy(draft.pieces))
            writing.start()
        self._pending = _Pending(final, progress, writing, time.perf_counter() - began)
        return numbers if self._staging is not None else self.finish()

    def poll(self) -> dict[str, Any]:
        """Complete a checkpoint that every rank has written by now; called after every step.

        Raises:
            OutputError: it could not be written; the checkpoint before is still there.
        """
        if self._pending is None:
            return {}
        began = time.perf_counter()
        is_done = torch.tensor(int(self._pending.writing.is_done()), device=self._accelerator.device)
        if self._accelerator.num_processes > 1:
            distributed.all_reduce(is_done, distributed.ReduceOp.MIN)
        self._pending.stall_seconds += time.perf_counter() - began
        return self.finish() if is_done else {}

    def finish(self) -> dict[str, Any]:
        """Wait for a checkpoint that is being written, and complete it.

        Raises:
            OutputError: it could not be written; the checkpoint before is still there.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return {}
        began, writing = time.perf_counter(), pending.writing
        writing.wait()
        raise_together(self._accelerator, writing.error, writing.folder)  # every rank's rows are on the disk
        error: Exception | None = None
        if self._accelerator.is_main_process:
            try:
                publish(writing.folder, pending.final)
            except OSError as problem:
                error = problem
        raise_together(self._accelerator, error, writing.folder)
        stall = pending.stall_seconds + time.perf_counter() - began
        seconds = torch.tensor([stall, writing.seconds], device=self._accelerator.device)
        if self._accelerator.num_processes > 1:
            distributed.all_reduce(seconds, distributed.ReduceOp.MAX)
        self.newest = pending.final
        self._remove_old(pending.progress)
        slowest_stall, slowest_writing = seconds.tolist()
        return {
            "checkpoint/step": pending.progress.step,
            "checkpoint/stall_seconds": slowest_stall,
            "checkpoint/write_seconds": slowest_writing,
        }

    def _remove_old(self, progress: Progress) -> None:
        if not self._accelerator.is_main_process:
            return
        keep, every = self._settings.keep_checkpoints, self._settings.keep_every_steps
        # The best one as this checkpoint knows it: a run that goes on from here needs that one.
        remove_old_checkpoints(self._run.folder, keep, progress.best_step, every)

    def _leave_out_copies(self, draft: Draft) -> None:
        """Save at once from now on, where a node does not have the host memory for a copy."""
        if self._staging is None or self._is_room_known:
            return
        self._is_room_known = True
        short = claim_together(self._accelerator, self._staging.count_missing(draft.pieces))
        if short is None:
            return
        self._staging = None
        if self._accelerator.is_main_process:
            logger.warning(
                "checkpoint: training waits for every save: a copy of the state takes %.1f GiB of host memory on %s, "
                "where %.1f GiB are available",
                *(short.needed / GIB, short.host, short.available / GIB),
            )

    def _create(self, model: PreTrainedModel, optimizer: Any, progress: Progress, temporary: Path) -> Draft:
        """Make the unfinished folder with all its small files, on rank 0; every rank learns what it writes."""
        is_adapter = has_adapter(model)
        if self._model_files is None and not is_adapter:
            shared = [describe_model_files(model) if self._accelerator.is_main_process else None]
            (self._model_files,) = broadcast_object_list(shared)  # transformers writes on rank 0 alone
        is_whole = is_adapter or self._model_files is None or self._model_files.names is None
        weights = gather_weights(model) if is_whole else {}
        states = gather_random_states(self._accelerator)
        draft = build_draft(model, optimizer, progress, states, None if is_whole else self._model_files)
        error: Exception | None = None
        if self._accelerator.is_main_process:
            try:
                shutil.rmtree(temporary, ignore_errors=True)
                shutil.copytree(self._run.tokenizer_folder, temporary)
                if is_adapter:
                    save_adapter(model, weights, temporary)
                elif is_whole:
                    model.save_pretrained(temporary, state_dict=weights)
                draft.create(temporary)
            except Exception as problem:
                error = problem
        raise_together(self._accelerator, error, temporary)  # the files are there for every rank
        return draft
