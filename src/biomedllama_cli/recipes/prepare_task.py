"""One task of `prepare` in a process that was started on its own: on a Slurm node, or by a Ray cluster.

All it is given is the work folder and a number. What the job is lies there as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from biomedllama_cli.corpus.disk import explain_full_disk
from biomedllama_cli.corpus.executor import StrictLocalExecutor, make_marks_folder
from biomedllama_cli.corpus.job import hash_job, list_versions
from biomedllama_cli.corpus.locks import check_token
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.errors import DataError, UnavailableError, UserError, WorkerError
from biomedllama_cli.recipes.prepare_pipeline import Settled, build_pipeline
from biomedllama_cli.recipes.prepare_source import build_source
from biomedllama_cli.settings.prepare import PrepareSettings

MARKS_FOLDER = "executor"
_DESCRIPTION_FILE = "description.json"
_FAILURES_FOLDER = "failures"


class TaskDescription(BaseModel):
    """Everything a task must know, and what it must find the same where it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: str = "biomedllama.prepare-tasks/1"
    settings: PrepareSettings
    """All settings."""
    settled: Settled
    """What the job has settled."""
    bundles: tuple[Path, ...]
    """Archives fetched before the tasks began."""
    directory: Path
    """Where the command was given: relative names begin there."""
    input_files: int
    """Inputs, in files."""
    input_bytes: int | None
    """Inputs, in bytes; None for a hub dataset."""
    input_digest: str
    """SHA-256 over names, sizes and times of the inputs."""
    versions: dict[str, str]
    """Of Python, of this program and of the libraries that touch its result."""
    command: str
    """The command line that began the job."""


def describe_tasks(
    settings: PrepareSettings, source: Source, settled: Settled, bundles: tuple[Path, ...] = ()
) -> TaskDescription:
    """Return what tasks on other machines have to know.

    Args:
        settings: all settings.
        source: the whole input, as this process sees it.
        settled: what the job has settled.
        bundles: archives fetched before the tasks begin.
    """
    return TaskDescription(
        settings=settings,
        settled=settled,
        bundles=tuple(path.absolute() for path in bundles),
        directory=Path.cwd(),
        **_describe_input(source),
        versions=_list_versions(),
        command=shlex.join(sys.argv),
    )


def save_description(work: Path, description: TaskDescription) -> None:
    """Put the description where tasks look for it, whole or not at all."""
    folder = work / MARKS_FOLDER
    make_marks_folder(folder)
    new = folder / f"{_DESCRIPTION_FILE}.new"
    new.write_text(description.model_dump_json(indent=1) + "\n", encoding="utf-8")
    new.replace(folder / _DESCRIPTION_FILE)


def load_description(work: Path) -> TaskDescription:
    """Read the description of a job.

    Raises:
        WorkerError: there is none, or it is another version's.
    """
    try:
        text = (work / MARKS_FOLDER / _DESCRIPTION_FILE).read_text(encoding="utf-8")
        return TaskDescription.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise WorkerError(
            f"There is no job of prepare in {work} as this machine sees it.",
            "It has ended, or the folder is not on a file system that all machines share at the same place.",
        ) from None
    except ValidationError as error:
        raise WorkerError(
            f"The job in {work} was described by another version: {error.error_count()} fields do not fit.",
            "Install the same version of biomedllama-cli on all machines.",
        ) from None


def run_task(work_folder: str, token: str, rank: int) -> None:
    """Run one task of a job; its finished result is in the work folder afterwards, or an error is raised.

    Relative names in the settings begin where the command was given, so the process goes there.

    Args:
        work_folder: the work folder.
        token: `locks.read_token` of the job in it.
        rank: number of the task.

    Raises:
        UserError: the task failed; the reason is noted in the work folder too.
    """
    work = Path(work_folder)
    note = work / MARKS_FOLDER / _FAILURES_FOLDER / f"{rank:05d}.json"
    check_token(work, token)
    try:
        with explain_full_disk(work):
            _build_executor(work, token).run_rank(rank)
            note.unlink(missing_ok=True)
    except Exception as error:
        _note_failure(note, error)
        raise


def list_failures(work: Path) -> dict[int, str]:
    """Return why tasks failed at their last attempt, by number of the task."""
    failures = {}
    for note in sorted((work / MARKS_FOLDER / _FAILURES_FOLDER).glob("*.json")):
        try:
            failures[int(note.stem)] = str(json.loads(note.read_text(encoding="utf-8"))["message"])
        except (OSError, ValueError, KeyError):
            continue
    return failures


def _note_failure(note: Path, error: Exception) -> None:
    message = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    try:
        note.parent.mkdir(exist_ok=True)
        note.write_text(json.dumps({"message": message}), encoding="utf-8")
    except OSError:  # a full disk, or no folder any more: the error itself says more
        pass


@functools.lru_cache(maxsize=1)
def _build_executor(work: Path, token: str) -> StrictLocalExecutor:
    """Build the pipeline of a job, once for all tasks of this process."""
    description = load_description(work)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the tasks are the parallelism
    _check_versions(description.versions)
    try:
        os.chdir(description.directory)
    except OSError as error:
        raise DataError(
            f"The folder the command was given in, {description.directory}, cannot be entered here: "
            f"{error.strerror}.",
            "Every machine must see it, the input and the output at the same place.",
        ) from None
    settings = description.settings
    source = build_source(settings, description.bundles)
    _check_input(description, source)
    pipeline = build_pipeline(settings, source, work, description.settled)
    folder = work / MARKS_FOLDER
    tasks = description.settled.tasks
    return StrictLocalExecutor(pipeline, tasks=tasks, workers=1, folder=folder, token=token)


def _check_versions(expected: dict[str, str]) -> None:
    here = _list_versions()
    for name in sorted(expected.keys() | here.keys()):
        if expected.get(name) != here.get(name):
            raise UnavailableError(
                f"{name} is {here.get(name, 'missing')} on {platform.node()} and "
                f"{expected.get(name, 'missing')} where the job was begun.",
                "Install the same versions on all machines: they decide the tokens.",
            )


def _check_input(description: TaskDescription, source: Source) -> None:
    here = _describe_input(source)
    if here["input_digest"] != description.input_digest:
        raise DataError(
            f"The input on {platform.node()} is not the one the job was begun with: {here['input_files']} files of "
            f"{here['input_bytes']} bytes here, {description.input_files} of {description.input_bytes} there, or "
            "other names or times.",
            "Every machine must see the same files; after a change of the input run prepare again.",
        )


def _describe_input(source: Source) -> dict[str, Any]:
    return {
        "input_files": len(source.inputs),
        "input_bytes": source.size,
        "input_digest": hash_job({"inputs": source.identify()}),
    }


def _list_versions() -> dict[str, str]:
    # Python's own tables of letters and spaces decide what is a word.
    return {"python": ".".join(platform.python_version_tuple()[:2]), **list_versions()}
