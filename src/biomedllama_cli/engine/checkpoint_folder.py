"""The folders of checkpoints: what a run's progress is, how a checkpoint becomes complete, and which ones are kept."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter

from biomedllama_cli.corpus.durable import flush_folder, flush_path
from biomedllama_cli.engine.saved_runs import CHECKPOINTS, MARKER, PREFIX, list_checkpoints, read_step
from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.models.permissions import share_as_umask_says

logger = logging.getLogger(__name__)

STATE, PROGRESS_FILE = "training_state", "progress.json"
_OURS = re.compile(rf"{PREFIX}\d+|\.{PREFIX}\d+\.tmp")
_EMPTY_IS_NONE = BeforeValidator(lambda value: value or None)  # as older checkpoints say it


@dataclass(frozen=True)
class Best:
    """The lowest held-out loss so far.

    Attributes:
        step: where it was measured, or None before the first look.
        loss: in nats per target token.
        looks_since: later looks, none of them better.
    """

    step: int | None = None
    loss: float = math.inf
    looks_since: int = 0
    __pydantic_config__ = ConfigDict(
        extra="forbid"
    )  # every value has a default: another name must not pass for none

    def after(self, step: int, loss: float) -> Best:
        """Return the best after one more look.

        >>> Best(4, 1.5).after(8, 1.75)
        Best(step=4, loss=1.5, looks_since=1)
        """
        return Best(step, loss) if loss < self.loss else replace(self, looks_since=self.looks_since + 1)


@dataclass(frozen=True)
class GateState:
    """What a gate goes on from.

    Attributes:
        losses: of the last accepted steps (in nats).
        grad_norms: of the same steps.
        in_a_row: steps refused just before.
        spikes: found so far.
    """

    losses: list[float]
    grad_norms: list[float]
    in_a_row: int
    spikes: int


@dataclass(frozen=True)
class Progress:
    """How far a run had come when it was saved.

    Attributes:
        step: optimizer steps done.
        tokens_seen: target tokens trained on.
        order: what fixes the order of sequences, by name; must be equal on resuming.
        grad_scaler: state of the fp16 loss scaling, empty in other precisions.
        best: what is known of the best checkpoint, or None where none is kept.
        gate: state of what may refuse updates, or None without it.
        stopped_before_look: a signal came, so what this step asks to be measured is left to the run that goes on.
    """

    step: int
    tokens_seen: int
    order: dict[str, Any]
    grad_scaler: dict[str, float]
    best: Annotated[Best | None, _EMPTY_IS_NONE] = None
    gate: Annotated[GateState | None, _EMPTY_IS_NONE] = None
    stopped_before_look: bool = False

    @property
    def best_step(self) -> int | None:
        """Return the step of the best checkpoint."""
        return self.best.step if self.best is not None else None


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


def load_progress(checkpoint: Path, field: str = "resume") -> Progress:
    """Read how far a checkpoint is.

    Args:
        checkpoint: a folder.
        field: the setting that named it, for messages.

    Raises:
        DataError: the folder is not a complete checkpoint of a run.
    """
    if not (checkpoint / MARKER).is_file():
        raise DataError(
            f"{field}: {checkpoint} is not a complete checkpoint of a run.",
            hint="Give a folder such as RUN/checkpoints/step-00001000 that holds a file COMPLETE.",
        )
    try:
        content = json.loads((checkpoint / STATE / PROGRESS_FILE).read_text(encoding="utf-8"))
        return TypeAdapter(Progress).validate_python(content, strict=False)
    except (OSError, ValueError, RecursionError) as error:
        raise explain_unreadable(checkpoint, error, field) from error


def explain_unreadable(
    checkpoint: Path, error: BaseException, field: str = "resume", what: str = "training state"
) -> DataError:
    """Return the sentence for a checkpoint that is broken; where a run goes on from it, with one that may be whole."""
    reason = " ".join(str(error).split())[:300].rstrip(".")
    hint = "Take an earlier checkpoint, or restore this one from a copy."
    if field == "resume":
        older = [each for each in list_checkpoints(checkpoint.parent.parent) if each.name < checkpoint.name]
        hint = (
            "The run has no earlier checkpoint: restore this one from a copy, or start over with --overwrite."
        )
        if older:
            hint = f"Remove that folder, and the run goes on from the checkpoint before it, {older[-1].name}."
    return DataError(f"{field}: the {what} of {checkpoint} cannot be read: {reason}.", hint=hint)


@contextmanager
def explain_broken(checkpoint: Path | None) -> Iterator[None]:
    """Say, where the model of a checkpoint that is continued cannot be loaded, that this is what it is.

    Args:
        checkpoint: that the model is loaded from, or None for another model, whose errors stay as they are.

    Raises:
        DataError: it cannot be loaded.
    """
    try:
        yield
    except ModelError as error:
        if checkpoint is None:
            raise
        raise explain_unreadable(checkpoint, error.__cause__ or error, what="model") from error


def publish(temporary: Path, final: Path) -> None:
    """Make a folder that is written a complete checkpoint: flushed, renamed, and only then marked."""
    share_as_umask_says(temporary)
    flush_folder(temporary)
    if final.exists():  # of an earlier attempt; unmarked first, so that a kill leaves no half folder complete
        (final / MARKER).unlink(missing_ok=True)
        shutil.rmtree(final)
    temporary.rename(final)
    flush_path(final.parent)
    (final / MARKER).touch()
    flush_path(final)


def remove_old_checkpoints(
    run_folder: Path, keep: int, best_step: int | None = None, keep_every_steps: int | None = None
) -> None:
    """Remove complete checkpoints that need not be kept, and leftovers of interrupted saves.

    Args:
        run_folder: of the run.
        keep: how many of the newest stay.
        best_step: step of the best one, which stays.
        keep_every_steps: those at its multiples stay.
    """
    for folder in list_checkpoints(run_folder)[:-keep]:
        step = read_step(folder)
        if step != best_step and (keep_every_steps is None or step % keep_every_steps):
            (folder / MARKER).unlink()  # first, so that a kill leaves no half folder marked complete
    remove_leftovers(run_folder)


def remove_leftovers(run_folder: Path) -> None:
    """Remove what is no complete checkpoint: a kill left it while one was written or removed.

    What else somebody has put there (a link to a checkpoint, a table) stays; a folder that cannot be removed costs room
    and no run.
    """
    for folder in sorted((run_folder / CHECKPOINTS).glob("*")):
        if _OURS.fullmatch(folder.name) is None or folder.is_symlink() or not folder.is_dir():
            continue
        if not (folder / MARKER).is_file():
            try:
                shutil.rmtree(folder)
            except OSError as error:
                logger.warning("%s is no complete checkpoint and cannot be removed: %s", folder, error)
