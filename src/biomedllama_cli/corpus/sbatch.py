"""What every use of Slurm needs: options that may stand in a script, submission, whether a job still goes on."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from biomedllama_cli.corpus.durable import write_atomically
from biomedllama_cli.errors import SettingsError, UnavailableError, WorkerError

logger = logging.getLogger(__name__)

_SUBMISSION_FILE = "submission.json"
_TIMEOUT_SECONDS = 120
_OPTION = re.compile(r"--[A-Za-z][A-Za-z0-9-]*(=.+)?|-[A-Za-z]( ?.+)?")
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip


@dataclass(frozen=True)
class OwnOptions:
    """Options of sbatch that a command gives itself.

    Attributes:
        command: its name.
        long: with two dashes.
        short: with one.
        hint: what to set instead.
    """

    command: str
    long: tuple[str, ...]
    short: tuple[str, ...]
    hint: str


@dataclass(frozen=True)
class Submission:
    """What was handed to Slurm.

    Attributes:
        jobs: ids as sbatch gave them (`123` or `123;cluster`).
    """

    jobs: tuple[str, ...]

    @property
    def label(self) -> str:
        """The jobs in words."""
        return "Slurm job" + ("s " if len(self.jobs) > 1 else " ") + " and ".join(self.jobs)


def check_script_options(section: str, options: Sequence[str], setup: str | None, own: OwnOptions) -> None:
    """Check what is to be written into a script.

    Args:
        section: of the settings that hold them.
        options: lines after `#SBATCH`.
        setup: shell command to run first, or None.
        own: what the command gives itself.

    Raises:
        SettingsError: an option is none, holds a line break, or is one that the command gives itself.
    """
    for option in options:
        if not option.isprintable() or not _OPTION.fullmatch(option):
            raise SettingsError(
                f"{section}.slurm_option = {option!r} is not one option of sbatch on one line.",
                "Write it as in a script after #SBATCH, and repeat the flag: --slurm-option=--partition=cpu",
            )
        name = option.partition("=")[0]
        # sbatch takes shortened names too.
        if any(ours.startswith(name) for ours in own.long) or option[:2] in own.short:
            raise SettingsError(
                f"{section}.slurm_option = {option!r}: {own.command} gives {name} itself.", own.hint
            )
    if setup is not None and "\0" in setup:
        raise SettingsError(f"{section}.slurm_setup holds a NUL character.")


def check_sbatch(setting: str, otherwise: str) -> None:
    """Check that jobs can be submitted from this machine.

    Args:
        setting: that asks for it, as in `executor.executor = slurm`.
        otherwise: what to do without.

    Raises:
        UnavailableError: there is no sbatch.
    """
    if shutil.which("sbatch") is None:
        raise UnavailableError(
            f"{setting}, and there is no sbatch on this machine's PATH.",
            f"Run the command on a login node of the cluster, or {otherwise}.",
        )


def escape_pattern(path: Path) -> str:
    """Return a path for `--output`, where sbatch reads % as the beginning of a pattern.

    >>> escape_pattern(Path("100%/logs"))
    '100%%/logs'
    """
    return str(path).replace("%", "%%")


def call_sbatch(arguments: Sequence[str]) -> str:
    """Submit a script, and return the job's id.

    Raises:
        UnavailableError: sbatch cannot be run.
        WorkerError: sbatch refused.
    """
    try:
        result = _run(["sbatch", "--parsable", *arguments])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"sbatch cannot be run: {error}.", "Try again later.") from None
    lines = result.stdout.split()
    if result.returncode != 0 or not lines or not re.fullmatch(r"\d+(;[\w.-]+)?", lines[-1]):
        said = " ".join((result.stderr or result.stdout).split())[:500] or "it gave no job id"
        raise WorkerError(f"sbatch refused the job: {said}.", "Check --slurm-option.")
    return lines[-1]


def record_submission(folder: Path, submission: Submission) -> None:
    """Write down in a folder what was submitted from it."""
    write_atomically(folder / _SUBMISSION_FILE, json.dumps(asdict(submission)) + "\n", flush=False)


def read_submission(folder: Path) -> Submission | None:
    """Return what was submitted from a folder, if anything was."""
    try:
        found = json.loads((folder / _SUBMISSION_FILE).read_text())
        return Submission(tuple(map(str, found["jobs"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_submission(folder: Path) -> None:
    """Remove the record of a submission that is over."""
    (folder / _SUBMISSION_FILE).unlink(missing_ok=True)


def is_going_on(submission: Submission) -> bool:
    """Tell whether Slurm still has a job of a submission waiting or running.

    Where squeue cannot say, the answer is no: locks keep two writers of one folder apart in any case.
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


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
