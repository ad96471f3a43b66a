"""Saving while a run goes on: as its settings say, at once or in the background, and which checkpoints stay."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from biomedllama_cli.engine.checkpoint import Progress, RunFolder, Saved, Saver, remove_old_checkpoints
from biomedllama_cli.settings.pretrain import CheckpointSettings


class Saving:
    """The checkpoints of a running loop; every rank must make the same calls.

    What a call returns are numbers for metrics.jsonl: of a checkpoint that has become complete, else none.

    Args:
        run: where to.
        accelerator: of the job.
        settings: how, and what is kept.

    Attributes:
        newest: the newest complete checkpoint.
    """

    def __init__(self, run: RunFolder, accelerator: Accelerator, settings: CheckpointSettings) -> None:
        in_background = settings.save_in_background
        if in_background is None:
            in_background = accelerator.device.type == "cuda"
        self._saver = Saver(run, accelerator, in_background=in_background)
        self._run, self._settings, self._is_first = run, settings, accelerator.is_main_process
        self.newest = run.resumed_from

    def save(self, model: PreTrainedModel, optimizer: Any, progress: Progress) -> dict[str, Any]:
        """Save, or begin to, once the checkpoint before is complete.

        Raises:
            OutputError: the disk is full or cannot be written; the checkpoint before is still there.
        """
        numbers = self.finish()
        self._saver.begin(model, optimizer, progress)
        return numbers if self._saver.in_background else self.finish()

    def poll(self) -> dict[str, Any]:
        """Complete a checkpoint that every rank has written by now; called after every step.

        Raises:
            OutputError: it could not be written; the checkpoint before is still there.
        """
        return self._note(self._saver.poll())

    def finish(self) -> dict[str, Any]:
        """Wait for a checkpoint that is being written, and complete it.

        Raises:
            OutputError: it could not be written; the checkpoint before is still there.
        """
        return self._note(self._saver.finish())

    def _note(self, saved: Saved | None) -> dict[str, Any]:
        if saved is None:
            return {}
        self.newest = saved.folder
        if self._is_first:
            # The best one as this checkpoint knows it: a run that goes on from here needs that one.
            remove_old_checkpoints(
                self._run.folder,
                self._settings.keep_checkpoints,
                saved.progress.best_step,
                self._settings.keep_every_steps,
            )
        return {
            "checkpoint/step": saved.progress.step,
            "checkpoint/stall_seconds": saved.stall_seconds,
            "checkpoint/write_seconds": saved.write_seconds,
        }
