"""The hidden folder beside the output that a job works in: its lock, its identity, and its end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from biomedllama_cli.corpus.durable import flush_folder, flush_path
from biomedllama_cli.corpus.job import check_output
from biomedllama_cli.corpus.locks import JOB_FILE, WRITERS_FILE, LockTakenError, hold_lock
from biomedllama_cli.corpus.manifest import TOKENIZER_FOLDER
from biomedllama_cli.corpus.slurm import find_slurm_folder
from biomedllama_cli.errors import OutputError

_NEW_JOB_FILE = "job.json.new"
_LOCK_FILE = "lock"
_LOCK_FILES = {_LOCK_FILE, WRITERS_FILE}
_PUBLISHED_FILE = "published"
_ORPHAN_SECONDS = 10.0  # a killed coordinator's tasks on this machine end at once, a Ray cluster's soon
# All that a work folder ever holds beside its locks.
_WORK_ENTRIES = {
    JOB_FILE,
    _NEW_JOB_FILE,
    TOKENIZER_FOLDER,
    _PUBLISHED_FILE,
    "benchmarks",
    "corpus",
    "executor",
    "locks",
    "progress.u64",
    "replaced",
    "scratch",
    "tasks",
    "tokenizer.done",
}


@dataclass(frozen=True)
class WorkIdentity:
    """What unfinished work was made from.

    Attributes:
        job: fingerprint of the job, apart from what follows.
        tasks: parts the input is cut into.
        skip_bad: whether records that cannot be read are counted, not an error.
    """

    job: str
    tasks: int
    skip_bad: bool

    def may_continue(self, other: WorkIdentity) -> bool:
        """Tell whether work begun as `other` can go on as this: a strict run may go on leniently."""
        same = (self.job, self.tasks) == (other.job, other.tasks)
        return same and (self.skip_bad or not other.skip_bad)


@dataclass(frozen=True)
class WorkFolder:
    """The hidden folder a job works in, held by a lock.

    Attributes:
        path: the folder, a sibling of the output.
        output: where the finished corpus goes.
        resumed: whether the same job was here before.
    """

    path: Path
    output: Path
    resumed: bool

    @property
    def corpus(self) -> Path:
        """Where the corpus is put together before it is moved."""
        return self.path / "corpus"

    @property
    def tasks(self) -> Path:
        """Where finished tasks are kept."""
        return self.path / "tasks"

    def forget_tasks(self) -> None:
        """Throw the finished tasks away: nothing can be made of them."""
        shutil.rmtree(self.tasks, ignore_errors=True)

    def publish(self, *, overwrite: bool) -> None:
        """Move the finished corpus to its place in one step, and remove the work folder.

        Raises:
            OutputError: meanwhile something was put there that must not be replaced.
        """
        flush_folder(self.corpus)
        check_output(self.output, overwrite=overwrite)
        old = self.path / "replaced"
        shutil.rmtree(old, ignore_errors=True)
        if self.output.is_dir() and any(self.output.iterdir()):
            self.output.rename(old)
        self.corpus.rename(self.output)
        flush_path(self.output.parent)
        _remove_published(self.path)


@contextmanager
def open_work_folder(output: Path, identity: WorkIdentity, *, overwrite: bool) -> Iterator[WorkFolder]:
    """Lock the work folder of `output` and make it fit for the job: new, or resumed.

    Args:
        output: the corpus folder to be.
        identity: what the finished tasks in it must have been made from.
        overwrite: whether unfinished work of another job may be thrown away.

    Raises:
        OutputError: another process works there, it holds another job's work, or it cannot be written.
    """
    path = find_work_folder(output)
    with _lock_folder(path, output):
        try:
            # Tasks hold this lock together, here and on other machines.
            with hold_lock(path / WRITERS_FILE, wait_seconds=_ORPHAN_SECONDS):
                resumed = _fit_work_folder(path, identity, overwrite=overwrite)
        except LockTakenError:
            raise OutputError(
                f"output_dir: tasks of an earlier start still write in {path}, here or on another machine.",
                "Wait until they have ended, or end them: squeue and scancel, or `ray job stop`.",
            ) from None
        try:
            yield WorkFolder(path, output, resumed)
        except BaseException:
            if not _has_finished_tasks(path) and not find_slurm_folder(path).exists():
                # Not while tasks run elsewhere: they would write into nothing.
                with suppress(LockTakenError, FileNotFoundError), hold_lock(path / WRITERS_FILE):
                    shutil.rmtree(path, ignore_errors=True)
            raise


def find_work_folder(output: Path) -> Path:
    """Return the folder in which the corpus `output` is made."""
    return output.with_name(f".{output.name}.partial")


def holds_job(output: Path, identity: WorkIdentity) -> bool:
    """Tell whether the work folder of `output` holds work that a job would go on with."""
    known = _read_identity(find_work_folder(output))
    return known is not None and identity.may_continue(known)


def remove_leftovers(output: Path, identity: WorkIdentity) -> None:
    """Remove the work folder of a corpus that is finished, when the process that made it died over that.

    Args:
        output: the finished corpus.
        identity: of the job that made it; another job's unfinished work stays.
    """
    path = find_work_folder(output)
    if not path.is_dir() or path.is_symlink():
        return
    with suppress(LockTakenError, OSError), hold_lock(path / _LOCK_FILE), hold_lock(path / WRITERS_FILE):
        if (path / _PUBLISHED_FILE).exists() or _read_identity(path) == identity:
            _remove_published(path)


def _remove_published(path: Path) -> None:
    """Remove a work folder so that what a kill leaves of it is known to be worthless."""
    published = path / _PUBLISHED_FILE
    published.touch()
    for entry in sorted(path.iterdir()):
        if entry.name in _LOCK_FILES | {_PUBLISHED_FILE}:
            continue
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for name in (_PUBLISHED_FILE, WRITERS_FILE, _LOCK_FILE):
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):  # the next one to prepare may have come in between
        path.rmdir()


@contextmanager
def _lock_folder(path: Path, output: Path) -> Iterator[None]:
    """Make the work folder when it is missing, and be the only one who works in it."""
    with ExitStack() as held:
        try:
            path.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold_lock(path / _LOCK_FILE))
        except LockTakenError:
            raise OutputError(
                f"output_dir: another process is preparing {output} right now.",
                "Wait for it, or name another folder with --output-dir.",
            ) from None
        except OSError as error:
            raise OutputError(f"output_dir: {path} cannot be written: {error.strerror}.") from None
        yield


def _fit_work_folder(path: Path, identity: WorkIdentity, *, overwrite: bool) -> bool:
    """Empty the locked folder of what is of no use to the job; return whether the job goes on in it."""
    known = _read_identity(path)
    published = (path / _PUBLISHED_FILE).exists()
    resumed = known is not None and identity.may_continue(known) and not published
    if not resumed:
        _empty_work_folder(path, known, overwrite=overwrite)
    if not resumed or known != identity:
        _write_identity(path, identity)
    shutil.rmtree(path / "corpus", ignore_errors=True)
    for abandoned in path.glob("tasks/*.partial"):  # by a process that was killed: the lock says so
        shutil.rmtree(abandoned, ignore_errors=True)
    return resumed


def _empty_work_folder(path: Path, known: WorkIdentity | None, *, overwrite: bool) -> None:
    entries = {entry.name: entry for entry in path.iterdir() if entry.name not in _LOCK_FILES}
    foreign = sorted(entries.keys() - _WORK_ENTRIES)
    if foreign and known is None:
        raise OutputError(
            f"output_dir: {path} is needed to work in and holds {foreign[0]!r}, which is no part of such work.",
            "Move that away, or name another folder with --output-dir.",
        )
    # A corpus that was moved to its place leaves nothing of worth, and neither does a job without finished tasks.
    worthless = _PUBLISHED_FILE in entries or (known is not None and not _has_finished_tasks(path))
    if entries.keys() - {_NEW_JOB_FILE} and not worthless and not overwrite:
        raise OutputError(
            f"output_dir: {path} holds unfinished work of another job (other settings, input or versions).",
            "Run that command again to finish it, start over with --overwrite, or name another folder.",
        )
    # The identity goes first: without it nobody takes the rest for whole.
    for name in sorted(entries, key=lambda name: name != JOB_FILE):
        entry = entries[name]
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _has_finished_tasks(path: Path) -> bool:
    return any(not summary.parent.name.endswith(".partial") for summary in path.glob("tasks/*/summary.json"))


def _write_identity(path: Path, identity: WorkIdentity) -> None:
    """Write who works here so that it is there whole, or not at all."""
    new = path / _NEW_JOB_FILE
    new.write_text(json.dumps(asdict(identity)) + "\n")
    flush_path(new)
    new.replace(path / JOB_FILE)
    flush_path(path)


def _read_identity(path: Path) -> WorkIdentity | None:
    try:
        return WorkIdentity(**json.loads((path / JOB_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
