"""Tasks as a Slurm job array: the scripts, their submission, and what became of it."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from biomedllama_cli.errors import SettingsError, UnavailableError, WorkerError

logger = logging.getLogger(__name__)

_SUBMISSION_FILE = "submission.json"
# Slurm's MaxArraySize is 1001 unless the cluster says otherwise, which makes 1000 the last number allowed.
MAX_ELEMENTS = 1000
_TIMEOUT_SECONDS = 120
_OPTION = re.compile(r"--[A-Za-z][A-Za-z0-9-]*(=.+)?|-[A-Za-z]( ?.+)?")
_OURS = ("--array", "--dependency", "--parsable", "--output", "--job-name", "--wait", "--wrap", "--chdir")
_OURS_SHORT = ("-a", "-d", "-o", "-J", "-W", "-D")
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """What was handed to Slurm.

    Attributes:
        jobs: ids as sbatch gave them (`123` or `123;cluster`): of the array, if tasks were missing, and of the
            job that puts the corpus together.
    """

    jobs: tuple[str, ...]

    @property
    def label(self) -> str:
        """The jobs in words."""
        return "Slurm job" + ("s " if len(self.jobs) > 1 else " ") + " and ".join(self.jobs)


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
    for option in options:
        if not option.isprintable() or not _OPTION.fullmatch(option):
            raise SettingsError(
                f"executor.slurm_option = {option!r} is not one option of sbatch on one line.",
                "Write it as in a script after #SBATCH, and repeat the flag: --slurm-option=--partition=cpu",
            )
        name = option.partition("=")[0]
        # sbatch takes shortened names too.
        if any(ours.startswith(name) for ours in _OURS) or option[:2] in _OURS_SHORT:
            raise SettingsError(
                f"executor.slurm_option = {option!r}: prepare gives {name} itself.",
                "Set --workers for the number of tasks at the same time, and leave the rest out.",
            )
    if setup is not None and "\0" in setup:
        raise SettingsError("executor.slurm_setup holds a NUL character.")


def submit(scripts: SlurmScripts, ranks: Sequence[int]) -> Submission:
    """Submit the missing tasks, and after them the job that puts the corpus together.

    Raises:
        UnavailableError: sbatch cannot be run.
        WorkerError: sbatch refused.
    """
    logs = scripts.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    place = str(logs).replace("%", "%%")  # sbatch reads % as the beginning of a pattern
    jobs: tuple[str, ...] = ()
    after: list[str] = []
    if ranks:
        script, array = scripts.write_array(ranks)
        flags = [f"--array={array}", f"--output={place}/%A_%a.log", f"--job-name=prepare-{scripts.name}"]
        jobs = (_call_sbatch([*flags, str(script)]),)
        _record(scripts.folder, Submission(jobs))
        # Not afterok: one failed task would leave the job waiting for ever; it looks itself what is missing.
        after = [f"--dependency=afterany:{jobs[0].partition(';')[0]}"]
    flags = [*after, f"--output={place}/finish-%j.log", f"--job-name=finish-{scripts.name}"]
    submission = Submission((*jobs, _call_sbatch([*flags, str(scripts.write_finish())])))
    _record(scripts.folder, submission)
    return submission


def find_submission(work: Path) -> Submission | None:
    """Return what was submitted from a work folder, if anything was."""
    try:
        found = json.loads((find_slurm_folder(work) / _SUBMISSION_FILE).read_text())
        return Submission(tuple(map(str, found["jobs"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_submission(work: Path) -> None:
    """Remove the record of a submission that is over."""
    (find_slurm_folder(work) / _SUBMISSION_FILE).unlink(missing_ok=True)


def is_going_on(submission: Submission) -> bool:
    """Tell whether Slurm still has a job of a submission waiting or running.

    Where squeue cannot say, the answer is no: locks keep two writers of one task apart in any case.
    """
    return any(_is_queued(job) for job in submission.jobs)


def _is_queued(job: str) -> bool:
    number, _, cluster = job.partition(";")
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={number}"]
    if cluster:
        command.append(f"--clusters={cluster}")
    try:
        result = _run(command)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("squeue cannot say whether Slurm job %s is still going on: %s", job, error)
        return False
    if result.returncode != 0:
        if "invalid job id" not in result.stderr.lower():  # which only says that it ended some time ago
            logger.warning("squeue cannot say what became of Slurm job %s: %s", job, result.stderr.strip())
        return False
    states = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    return bool({state for state in states if not state.startswith("CLUSTER:")} - _ENDED)


def check_sbatch() -> None:
    """Check that jobs can be submitted from this machine.

    Raises:
        UnavailableError: there is no sbatch.
    """
    if shutil.which("sbatch") is None:
        raise UnavailableError(
            "executor.executor = slurm, and there is no sbatch on this machine's PATH.",
            "Run the command on a login node of the cluster, or take --executor local.",
        )


def _call_sbatch(arguments: list[str]) -> str:
    try:
        result = _run(["sbatch", "--parsable", *arguments])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"sbatch cannot be run: {error}.", "Try again later.") from None
    lines = result.stdout.split()
    if result.returncode != 0 or not lines or not re.fullmatch(r"\d+(;[\w.-]+)?", lines[-1]):
        said = " ".join((result.stderr or result.stdout).split())[:500] or "it gave no job id"
        raise WorkerError(f"sbatch refused the job: {said}.", "Check --slurm-option.")
    return lines[-1]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)


def _record(folder: Path, submission: Submission) -> None:
    path = folder / _SUBMISSION_FILE
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(submission)) + "\n")
    new.replace(path)
