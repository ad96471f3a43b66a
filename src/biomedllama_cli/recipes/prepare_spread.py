"""Where the tasks of `prepare` run: here, as a Slurm job array, or on a Ray cluster."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from biomedllama_cli.corpus.executor import list_missing, run_tasks
from biomedllama_cli.corpus.locks import read_token
from biomedllama_cli.corpus.ray_cluster import check_ray, run_on_ray
from biomedllama_cli.corpus.sbatch import Submission, check_sbatch, is_going_on
from biomedllama_cli.corpus.slurm import (
    SlurmScripts,
    check_options,
    find_slurm_folder,
    find_submission,
    forget_submission,
    submit,
)
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.corpus.work_folder import WorkIdentity, find_work_folder, holds_job
from biomedllama_cli.errors import OutputError, Resumable
from biomedllama_cli.recipes.prepare_pipeline import Settled, build_pipeline
from biomedllama_cli.recipes.prepare_task import (
    MARKS_FOLDER,
    describe_tasks,
    list_failures,
    run_task,
    save_description,
)
from biomedllama_cli.settings.prepare import ExecutorSettings, PrepareSettings

logger = logging.getLogger(__name__)

_TASK_MODULE = "biomedllama_cli.cli.prepare_task"
_SHOWN_TASKS = 10


@dataclass(frozen=True)
class Spread:
    """What became of the tasks.

    Attributes:
        resumed: tasks that were finished before.
        submission: jobs that were submitted instead of waiting for the tasks, or None when all are done.
    """

    resumed: int
    submission: Submission | None = None


def count_workers(settings: ExecutorSettings, tasks: int) -> int:
    """Return how many tasks run at the same time on this machine.

    >>> count_workers(ExecutorSettings(), 8), count_workers(ExecutorSettings(workers=4), 3)
    (1, 3)
    """
    return min(settings.workers or 1, tasks)


def check_executor(settings: ExecutorSettings) -> None:
    """Check what is asked for before any work.

    Raises:
        SettingsError: an option for Slurm cannot be one.
    """
    check_options(settings.slurm_option, settings.slurm_setup)


def check_executor_is_here(settings: ExecutorSettings, *, finishing: bool = False) -> None:
    """Check that what is to run the tasks is to be had on this machine, before anything is written.

    Args:
        settings: of this command.
        finishing: whether this is the job that comes after Slurm's tasks, which runs none.

    Raises:
        UnavailableError: there is no sbatch, or Ray is not installed.
    """
    if finishing:
        return
    if settings.executor == "slurm":
        check_sbatch("executor.executor = slurm", "take --executor local")
    elif settings.executor == "ray":
        check_ray()


def find_running_jobs(settings: ExecutorSettings, output: Path, identity: WorkIdentity) -> Submission | None:
    """Return the Slurm jobs that are making a corpus, when this command would submit the same.

    Args:
        settings: of this command.
        output: the corpus folder.
        identity: of the work of this command.

    Raises:
        OutputError: Slurm jobs are making something else there, or the command wants to make it in another way.
    """
    submission = find_submission(find_work_folder(output))
    if submission is None or not is_going_on(submission):
        return None
    if settings.executor != "slurm" or not holds_job(output, identity):
        raise OutputError(
            f"output_dir: {submission.label} is preparing {output} right now.",
            f"Wait for it, or end it with scancel {' '.join(submission.jobs)}.",
        )
    return submission


def spread_tasks(
    settings: PrepareSettings,
    source: Source,
    work: Path,
    settled: Settled,
    *,
    bundles: tuple[Path, ...] = (),
    finishing: bool = False,
) -> Spread:
    """Run every task that is not finished, or hand them to Slurm.

    Args:
        settings: all settings.
        source: the whole input.
        work: the work folder, locked.
        settled: what the job has settled.
        bundles: archives fetched before.
        finishing: whether this is the job that comes after Slurm's tasks, which runs none.

    Raises:
        UserError: as a task raised it.
        Resumable: tasks are missing after Slurm's jobs have ended.
    """
    marks, tasks, executor = work / MARKS_FOLDER, settled.tasks, settings.executor
    missing = list_missing(marks, tasks)
    resumed = tasks - len(missing)
    if finishing:
        _check_complete(work, missing, tasks)
        return Spread(resumed)
    if executor.executor == "local":
        pipeline = build_pipeline(settings, source, work, settled)
        if executor.workers and executor.workers > len(missing) > 0:
            logger.info(
                "%d of %d workers are used: %s",
                len(missing), executor.workers, _explain_idle_workers(executor, source, len(missing)),
            )  # fmt: skip
        return Spread(run_tasks(pipeline, tasks=tasks, workers=count_workers(executor, tasks), folder=marks))
    save_description(work, describe_tasks(settings, source, settled, bundles))
    if executor.executor == "slurm":
        return Spread(resumed, _submit(executor, work, missing))
    run_on_ray(
        run_task, work, read_token(work), missing, address=executor.ray_address, workers=executor.workers
    )
    return Spread(resumed)


def _explain_idle_workers(executor: ExecutorSettings, source: Source, left: int) -> str:
    if source.max_documents is not None:
        return "--max-documents has one process read everything in order"
    if executor.tasks is not None and executor.tasks < len(source.inputs):
        return f"--tasks {executor.tasks} is fewer"
    are = "is" if left == 1 else "are"
    return f"one input file is one part of the work, and {left} {are} left; split large files to use more"


def _submit(executor: ExecutorSettings, work: Path, missing: list[int]) -> Submission:
    for rank, message in list(list_failures(work).items())[:_SHOWN_TASKS]:
        if rank in missing:
            logger.warning("task %d failed before: %s", rank, message)
    scripts = SlurmScripts(
        work, read_token(work), _TASK_MODULE, work.name.strip(".").removesuffix(".partial"), executor.workers,
        executor.slurm_option, executor.slurm_setup,
    )  # fmt: skip
    return submit(scripts, missing)


def _check_complete(work: Path, missing: list[int], tasks: int) -> None:
    """Check that Slurm's tasks have all finished; otherwise say which not, and let the command be given again."""
    if not missing:
        return
    forget_submission(work)  # the array has ended, or this would not run
    failures = list_failures(work)
    shown = ", ".join(map(str, missing[:_SHOWN_TASKS])) + (", ..." if len(missing) > _SHOWN_TASKS else "")
    first = next((f" Task {rank}: {failures[rank]}" for rank in missing if rank in failures), "")
    raise Resumable(
        f"{len(missing)} of {tasks} tasks are not finished ({shown}).{first}",
        "Run the same prepare command again: it submits only these. Their logs are in "
        f"{find_slurm_folder(work) / 'logs'}.",
    )
