"""The run folder: whose it is, whether it may be continued, and its lock.

RUN/settings.json     the job and all settings; also what marks the folder as a run of ours
RUN/metrics.jsonl     one line per step and per validation
RUN/checkpoints/      see engine/checkpoint.py
RUN/loss_curve.png, RUN/loss_curve.svg, RUN/report.json     written at the end
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from biomedllama_cli.corpus.disk import explain_full_disk
from biomedllama_cli.corpus.durable import name_temporary, write_atomically
from biomedllama_cli.engine.checkpoint import Progress, load_progress, remove_leftovers
from biomedllama_cli.engine.saved_runs import (
    MARKER,
    REPORT_FILE,
    SETTINGS_FILE,
    find_checkpoint,
    list_checkpoints,
    read_step,
)
from biomedllama_cli.errors import DataError, OutputError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
SCHEMA = "biomedllama.run/1"
_HASH = re.compile("[0-9a-f]{64}")
_DIGITS = 12
"""Of a SHA-256 in a message."""
_NOTED_LATER = frozenset({"tokenizer", "monitor.spikes", "monitor.spike_deviations", "monitor.spike_window"})
"""What earlier versions did not write down; nothing is known of it in their runs."""
_GIVES_ORDER = frozenset({"examples", "seed", "duration.epochs"})
"""What explains another `order`, the hash of the rows as they are trained on."""


@dataclass(frozen=True)
class Job:
    """What a run trains, as flat names and values; two runs with equal jobs give the same weights.

    Attributes:
        order: what fixes the order of sequences: corpus, seed, sequence length, global batch.
        other: model, duration, optimizer, schedule, precision.
    """

    order: dict[str, Any]
    other: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return both parts as they are read back from JSON."""
        whole: dict[str, Any] = json.loads(json.dumps(self.order | self.other))
        return whole


@dataclass(frozen=True)
class RunStart:
    """How a run begins.

    Attributes:
        folder: the run folder.
        checkpoint: what it continues, or None.
        progress: how far that checkpoint is.
        replaces: the folder holds another run, which is removed first.
    """

    folder: Path
    checkpoint: Path | None = None
    progress: Progress | None = None
    replaces: bool = False


def plan_start(folder: Path, job: Job, *, resume: str, overwrite: bool) -> RunStart:
    """Decide how a run begins in its folder; changes nothing.

    Raises:
        OutputError: the folder is in use, or holds something else, or another job and no `overwrite`.
        DataError: the checkpoint to continue is incomplete or of another corpus, seed, length or batch.
    """
    saved = _read_job(folder)
    if resume not in ("auto", "never"):
        return _plan_explicit_start(folder, job, saved, Path(resume).expanduser(), overwrite=overwrite)
    if saved is None:
        return RunStart(folder)
    changes = list_changes(saved, job.as_dict())
    if resume == "never" or changes:
        if overwrite:
            _check_model_outside(folder, job)
            return RunStart(folder, replaces=True)
        what = f"another run ({'; '.join(changes)})" if changes else "a run already, and resume is never"
        raise OutputError(
            f"output_dir {folder} holds {what}.",
            hint="Give another --output-dir, undo the change to continue that run, or --overwrite to delete it.",
        )
    check_not_in_use(folder)
    checkpoint = find_checkpoint(folder)
    return RunStart(folder, checkpoint, load_progress(checkpoint) if checkpoint else None)


def _plan_explicit_start(
    folder: Path, job: Job, saved: dict[str, Any] | None, checkpoint: Path, *, overwrite: bool
) -> RunStart:
    """Continue a named checkpoint; learning rates and durations may differ, the order of sequences may not."""
    progress = load_progress(checkpoint)
    if changes := list_changes(progress.order, json.loads(json.dumps(job.order))):
        raise DataError(
            f"resume: {checkpoint} cannot be continued, its order of sequences was another: {'; '.join(changes)}.",
            hint=f"Undo the change, or start from its weights alone with --model {checkpoint}.",
        )
    inside = folder.resolve() in checkpoint.resolve().parents
    changed = saved is not None and bool(list_changes(saved, job.as_dict()))
    if saved is not None and (changed or not inside):
        if inside or not overwrite:
            raise OutputError(
                f"output_dir {folder} holds another run than the one to continue from {checkpoint}.",
                hint="Give another --output-dir.",
            )
        _check_model_outside(folder, job)
        return RunStart(folder, checkpoint, progress, replaces=True)
    return RunStart(folder, checkpoint, progress)


def _check_model_outside(folder: Path, job: Job) -> None:
    """Check that a run does not delete, with the run it replaces, the model that it starts from."""
    model = Path(str(job.other.get("model", ""))).expanduser()
    if folder.resolve() in model.resolve().parents and model.exists():
        raise OutputError(
            f"output_dir {folder} would be deleted, and the model to start from, {model}, is in it.",
            hint="Give another --output-dir.",
        )


def list_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one sentence part for every name whose value differs, those that are hashes last.

    >>> list_changes({"seed": 0, "batch.global_batch_size": 8}, {"seed": 1, "batch.global_batch_size": 8})
    ['seed was 0 and is 1']
    >>> list_changes({"corpus": "0123456789abcdef" * 4, "seed": 0}, {"corpus": "f" * 64, "seed": 1})
    ['seed was 0 and is 1', 'corpus was 0123456789ab and is ffffffffffff']
    """
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    names = [name for name in names if name in before or name not in _NOTED_LATER]
    if not _GIVES_ORDER.isdisjoint(names):
        names = [name for name in names if name != "order"]
    values = {name: (before.get(name), now.get(name)) for name in names}
    names.sort(key=lambda name: any(map(_is_hash, values[name])))
    return [f"{name} was {_show(values[name][0])} and is {_show(values[name][1])}" for name in names]


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _show(value: Any) -> Any:
    return value[:_DIGITS] if _is_hash(value) else value


def _read_job(folder: Path) -> dict[str, Any] | None:
    """Return the job of the run in a folder, or None when the folder is free.

    Raises:
        OutputError: the folder holds files that no run of ours wrote.
    """
    # A start that was killed may have left no more than its lock and a beginning of the settings.
    ours = {LOCK_FILE, name_temporary(folder / SETTINGS_FILE).name}
    if not folder.exists() or (folder.is_dir() and all(file.name in ours for file in folder.iterdir())):
        return None
    try:
        content = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        if content["schema_version"] == SCHEMA:
            job: dict[str, Any] = content["job"]
            return job
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise OutputError(
        f"output_dir {folder} is not empty and is no run folder.",
        hint="Give another --output-dir; only run folders are ever replaced.",
    )


@contextmanager
def open_run_folder(start: RunStart, job: Job, facts: Mapping[str, Any]) -> Iterator[None]:
    """Make the folder ready for writing and hold its lock; for rank 0 alone.

    Args:
        start: from `plan_start`.
        job: written to settings.json.
        facts: written beside it (all settings, versions, command).

    Raises:
        OutputError: the folder cannot be written, its disk is full, or another process is using it.
    """
    folder = start.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a")  # empties nothing, should a link stand there
    except OSError as error:
        raise OutputError(f"output_dir {folder} cannot be written: {error.strerror}.") from error
    with lock, explain_full_disk(folder):
        take_lock(lock, folder, fcntl.LOCK_EX)
        if start.replaces:
            clear_run_folder(folder)
        remove_later_checkpoints(start)
        remove_leftovers(folder)
        (folder / REPORT_FILE).unlink(missing_ok=True)
        content = {"schema_version": SCHEMA, "job": job.as_dict(), **facts}
        write_atomically(folder / SETTINGS_FILE, json.dumps(content, indent=2, default=str) + "\n")
        yield


def take_lock(lock: IO[str], folder: Path, kind: int) -> None:
    """Lock a run folder by its open lock file, exclusively or shared; closing the file unlocks it.

    Some cluster file systems have no locks (Lustre without `-o flock`, some NFS); the run goes on without one there.

    Raises:
        OutputError: another process holds it.
    """
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"output_dir {folder} is in use by another process.",
            hint="Wait for it, or give another --output-dir.",
        ) from error
    except OSError as error:
        logger.warning(
            "output_dir %s cannot be locked (%s): see to it that only one job writes there",
            folder,
            error.strerror,
        )


def check_not_in_use(folder: Path) -> None:
    """Check, before anything in it is read, that no other job is writing to a run folder.

    A running job also removes its old checkpoints, so one that was found a moment ago may be gone. The lock is
    shared, since every rank of a starting job looks at the same time.

    Raises:
        OutputError: another process holds the folder's lock.
    """
    if (folder / LOCK_FILE).is_file():
        with (folder / LOCK_FILE).open() as lock:
            take_lock(lock, folder, fcntl.LOCK_SH)


def clear_run_folder(folder: Path) -> None:
    """Delete all of a run folder but its lock; the settings, which mark it as ours, go last."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == SETTINGS_FILE):
        if path.name == LOCK_FILE:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def remove_later_checkpoints(start: RunStart) -> None:
    """Remove checkpoints after the resumed step: the run makes them again, and they must not pass for newer."""
    if start.progress is None:
        return
    for later in list_checkpoints(start.folder):
        if read_step(later) > start.progress.step:
            logger.warning("removing %s, which is after the resumed step %d", later, start.progress.step)
            (later / MARKER).unlink()
            shutil.rmtree(later)
