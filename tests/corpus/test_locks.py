"""Who may write in a work folder: tasks and coordinators of several processes against each other."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from biomedllama_cli.corpus.locks import LockTakenError, hold_lock, hold_task, read_token
from biomedllama_cli.corpus.work_folder import WorkIdentity, open_work_folder, remove_leftovers
from biomedllama_cli.errors import OutputError, WorkerError

JOB, OTHER = WorkIdentity("a", 2, False), WorkIdentity("b", 2, False)
HOLD = """
import sys
from pathlib import Path
from biomedllama_cli.corpus.locks import hold_task
with hold_task(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return a corpus folder to be, whose work folder holds a job with one finished task."""
    with suppress(KeyboardInterrupt), open_work_folder(tmp_path / "corpus", JOB, overwrite=False) as work:
        (work.tasks / "00000").mkdir(parents=True)
        (work.tasks / "00000" / "summary.json").write_text("{}")
        raise KeyboardInterrupt
    return tmp_path / "corpus"


@pytest.fixture
def work(output: Path) -> Path:
    return output.with_name(".corpus.partial")


def start_task(work: Path, rank: int, token: str) -> subprocess.Popen[str]:
    """Start a process that holds a task until it is ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(work), str(rank), token],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n", process.communicate()
    return process


def test_task_has_one_writer_and_others_run_beside_it(work: Path) -> None:
    token = read_token(work)
    process = start_task(work, 1, token)
    try:
        with hold_task(work, 0, token, wait_seconds=0):
            pass
        with (
            pytest.raises(WorkerError, match=f"process {process.pid}"),
            hold_task(work, 1, token, wait_seconds=0.1),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with hold_task(work, 1, token, wait_seconds=5):  # a dead process holds nothing
        pass


def test_folder_in_which_a_task_runs_is_not_emptied(
    work: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.corpus.work_folder._ORPHAN_SECONDS", 0.1)
    process = start_task(work, 1, read_token(work))
    try:
        for identity in (JOB, OTHER):
            with (
                pytest.raises(OutputError, match="still write in"),
                open_work_folder(output, identity, overwrite=True),
            ):
                pass
        assert (work / "tasks" / "00000" / "summary.json").exists()
    finally:
        process.kill()
        process.communicate()
    with open_work_folder(output, OTHER, overwrite=True):
        assert not (work / "tasks").exists()


def test_task_of_another_job_or_of_a_finished_one_is_refused(work: Path, output: Path) -> None:
    token = read_token(work)
    with (
        open_work_folder(output, OTHER, overwrite=True),
        pytest.raises(WorkerError, match="was replaced"),
        hold_task(work, 0, token),
    ):
        pass
    with pytest.raises(WorkerError, match="has ended"), hold_task(output.with_name("gone"), 0, token):
        pass
    assert not output.with_name("gone").exists()


def test_waiting_for_a_lock_whose_file_is_replaced_gets_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = threading.Event()

    def replace() -> None:
        with hold_lock(path):
            held.set()
            time.sleep(0.2)
            path.unlink()

    thread = threading.Thread(target=replace)
    thread.start()
    held.wait()
    with hold_lock(path, wait_seconds=10), pytest.raises(LockTakenError), hold_lock(path):
        pass
    thread.join()


def test_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OutputError) as raised, hold_lock(tmp_path / "lock"):
        pass
    assert raised.value.message == f"The file system of {tmp_path} has no locks (No locks available)."


def test_leftovers_of_a_published_corpus_go_and_another_jobs_work_stays(work: Path, output: Path) -> None:
    remove_leftovers(output, OTHER)
    assert (work / "tasks" / "00000" / "summary.json").exists()
    remove_leftovers(output, JOB)  # the job's own: killed between the corpus's last rename and its end
    assert not work.exists()
    remove_leftovers(output, JOB)


def test_half_removed_work_of_a_published_corpus_stops_no_other_job(work: Path, output: Path) -> None:
    (work / "published").touch()
    with open_work_folder(output, OTHER, overwrite=False) as opened:
        assert not opened.resumed
        assert not (work / "tasks").exists()
        assert not (work / "published").exists()
