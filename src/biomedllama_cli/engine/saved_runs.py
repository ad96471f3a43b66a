"""What runs have saved: their checkpoints by name, and the model each has to show. Loads no library."""

from __future__ import annotations

import json
from pathlib import Path

CHECKPOINTS, MARKER, PREFIX = "checkpoints", "COMPLETE", "step-"
SETTINGS_FILE, REPORT_FILE = "settings.json", "report.json"


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Return a run's complete checkpoints, oldest step first."""
    found = (run_folder / CHECKPOINTS).glob(f"{PREFIX}*/{MARKER}")
    ours = (marker.parent for marker in found if marker.parent.name[len(PREFIX) :].isdecimal())
    return sorted(ours, key=read_step)


def read_step(checkpoint: Path) -> int:
    """Return the step in a checkpoint folder's name.

    >>> read_step(Path("checkpoints/step-00000020"))
    20
    """
    return int(checkpoint.name[len(PREFIX) :])


def name_checkpoint(run_folder: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run_folder / CHECKPOINTS / f"{PREFIX}{step:08d}"


def find_checkpoint(run_folder: Path) -> Path | None:
    """Return the newest complete checkpoint of one run."""
    return next(reversed(list_checkpoints(run_folder)), None)


def find_result(run_folder: Path) -> Path | None:
    """Return the model a run has to show: what its report names (the best checkpoint, or merged adapters), else the
    newest complete checkpoint.
    """
    try:
        report = json.loads((run_folder / REPORT_FILE).read_text(encoding="utf-8"))
        named = [Path(name).name for name in (report.get("merged"), report.get("checkpoint")) if name]
    except (OSError, ValueError, TypeError, AttributeError):
        return find_checkpoint(run_folder)
    # By its name: a run folder may have been moved since.
    places = [parent / name for name in named for parent in (run_folder, run_folder / CHECKPOINTS)]
    there = [place for place in places if (place / MARKER).is_file() or (place / "config.json").is_file()]
    return next(iter(there), find_checkpoint(run_folder))


def find_newest_result(workspace: Path, *, of: str = "", but_of: str = "") -> Path | None:
    """Return what the run of a workspace that saved last has to show.

    Args:
        workspace: holds `runs/`.
        of: only runs of this command that tunes models are looked at.
        but_of: runs of this command are left out.
    """
    runs = [*(workspace / "runs").glob("*"), *(workspace / "runs").glob("*/seed-*")]
    commands = {run: _read_command(run) for run in runs}
    fitting = [run for run in runs if commands[run] != but_of and (not of or commands[run] == of)]
    saved = [(newest / MARKER, run) for run in fitting if (newest := find_checkpoint(run))]
    if not saved:
        return None
    return find_result(max(saved, key=lambda pair: pair[0].stat().st_mtime_ns)[1])


def find_last_writer(workspace: Path, name: str) -> Path | None:
    """Return the folder of the run of a workspace, or of one of its seeds, that wrote the file of this name last."""
    files = [*(workspace / "runs").glob(f"*/{name}"), *(workspace / "runs").glob(f"*/seed-*/{name}")]
    return max(files, key=lambda file: file.stat().st_mtime_ns).parent if files else None


def find_model_of_run(run_folder: Path) -> str | None:
    """Return the model that a run started from, or None where it does not say."""
    return _read_job(run_folder, "model")


def _read_command(run_folder: Path) -> str | None:
    """Return the command of a run that tunes a model."""
    return _read_job(run_folder, "command")


def _read_job(run_folder: Path, name: str) -> str | None:
    try:
        return str(json.loads((run_folder / SETTINGS_FILE).read_text(encoding="utf-8"))["job"][name])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
