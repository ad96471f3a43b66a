"""Tasks as a Slurm job array: the scripts, their submission, and what became of it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from biomedllama_cli.corpus.sbatch import (
    OwnOptions,
    Submission,
    call_sbatch,
    check_script_options,
    escape_pattern,
    read_submission,
    record_submission,
    remove_submission,
)

# Slurm's MaxArraySize is 1001 unless the cluster says otherwise, which makes 1000 the last number allowed.
MAX_ELEMENTS = 1000
_OURS = OwnOptions(
    "prepare",
    ("--array", "--dependency", "--parsable", "--output", "--job-name", "--wait", "--wrap", "--chdir"),
    ("-a", "-d", "-o", "-J", "-W", "-D"),
    "Set --workers for the number of tasks at the same time, and leave the rest out.",
)


@dataclass(frozen=True)
class SlurmScripts:
    """How tasks are started on the nodes.

    Attributes:
        work: the work folder, on a file system that all nodes see at the same place.
        token: of the job in it (`locks.read_token`).
        module: module that runs tasks (`python -m MODULE WORK TOKEN RANK ...`) and the end (`... --finish`).
        name: name of the corpus.
        workers: elements of the array at the same time, or None for as many as Slurm gives.
        options: lines after `#SBATCH`.
        setup: shell command to run first, or None.
    """

    work: Path
    token: str
    module: str
    name: str
    workers: int | None
    options: tuple[str, ...]
    setup: str | None

    @property
    def folder(self) -> Path:
        """Where scripts, logs and the record of the submission are."""
        return find_slurm_folder(self.work)

    def write_array(self, ranks: Sequence[int]) -> tuple[Path, str]:
        """Write the script of the missing tasks; return it and the value of `--array`."""
        portion, elements = plan_array(len(ranks), MAX_ELEMENTS)
        body = [
            "# The tasks that are missing; each element of the array does an equal portion of them.",
            f"ranks=({' '.join(map(str, ranks))})",
            f"portion={portion}",
            self._command('"${ranks[@]:SLURM_ARRAY_TASK_ID*portion:portion}"'),
        ]
        limit = f"%{self.workers}" if self.workers is not None else ""
        return self._write("tasks.sbatch", body), f"0-{elements - 1}{limit}"

    def write_finish(self) -> Path:
        """Write the script of the job that puts the corpus together."""
        return self._write("finish.sbatch", [self._command("--finish")])

    def _command(self, arguments: str) -> str:
        # What the setup activates, or else the interpreter at hand.
        python = "python" if self.setup else shlex.quote(sys.executable)
        return f"exec {python} -m {self.module} {shlex.quote(str(self.work))} {self.token} {arguments}"

    def _write(self, name: str, body: list[str]) -> Path:
        lines = [
            "#!/bin/bash",
            "#SBATCH --cpus-per-task=1",
            *(f"#SBATCH {option}" for option in self.options),
        ]
        lines += ["set -e", *([self.setup] if self.setup else []), *body]
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path


def find_slurm_folder(work: Path) -> Path:
    """Return where a work folder keeps scripts, logs and the record of the submission."""
    return work / "executor" / "slurm"


def plan_array(tasks: int, most: int) -> tuple[int, int]:
    """Return (tasks per element, elements) of an array of at most `most` elements.

    >>> plan_array(7, 1000), plan_array(2500, 1000)
    ((1, 7), (3, 834))
    """
    portion = -(-tasks // most)
    return portion, -(-tasks // portion)


def check_options(options: Sequence[str], setup: str | None) -> None:
    """Check what is to be written into the scripts.

    Raises:
        SettingsError: an option is none, holds a line break, or is one that prepare gives itself.
    """
    check_script_options("executor", options, setup, _OURS)


def submit(scripts: SlurmScripts, ranks: Sequence[int]) -> Submission:
    """Submit the missing tasks, and after them the job that puts the corpus together.

    Raises:
        UnavailableError: sbatch cannot be run.
        WorkerError: sbatch refused.
    """
    logs = scripts.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    place = escape_pattern(logs)
    jobs: tuple[str, ...] = ()
    after: list[str] = []
    if ranks:
        script, array = scripts.write_array(ranks)
        flags = [f"--array={array}", f"--output={place}/%A_%a.log", f"--job-name=prepare-{scripts.name}"]
        jobs = (call_sbatch([*flags, str(script)]),)
        record_submission(scripts.folder, Submission(jobs))
        # Not afterok: one failed task would leave the job waiting for ever; it looks itself what is missing.
        after = [f"--dependency=afterany:{jobs[0].partition(';')[0]}"]
    flags = [*after, f"--output={place}/finish-%j.log", f"--job-name=finish-{scripts.name}"]
    submission = Submission((*jobs, call_sbatch([*flags, str(scripts.write_finish())])))
    record_submission(scripts.folder, submission)
    return submission


def find_submission(work: Path) -> Submission | None:
    """Return what was submitted from a work folder, if anything was."""
    return read_submission(find_slurm_folder(work))


def forget_submission(work: Path) -> None:
    """Remove the record of a submission that is over."""
    remove_submission(find_slurm_folder(work))
