"""One start of a node's processes, with a shell command in the place of `accelerate launch`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from biomedllama_cli.engine import launch_job
from biomedllama_cli.engine.job_signals import JobSignals
from biomedllama_cli.engine.launch_job import CrashError, NodeJob
from biomedllama_cli.engine.node_links import AloneLink
from biomedllama_cli.engine.rank import OUTCOME


def run_shell(folder: Path, script: str, *, ranks: int = 2) -> None:
    job = NodeJob(folder, range(ranks), ranks, signals=JobSignals(), link=AloneLink())
    job.run(["sh", "-c", script], {**os.environ, OUTCOME: str(folder)})


def test_processes_that_crash_after_everything_is_done_have_done_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_shell(tmp_path, f"touch {tmp_path}/0.done {tmp_path}/1.done; kill -SEGV $$")
    assert "left with exit code -11" in caplog.text
    (tmp_path / "1.done").unlink()
    with pytest.raises(CrashError, match="exit code -11"):
        run_shell(tmp_path, "kill -SEGV $$")


def test_processes_that_do_not_leave_after_everything_is_done_are_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_job, "LEAVE_SECONDS", 0.2)
    run_shell(tmp_path, f"touch {tmp_path}/0.done {tmp_path}/1.done; sleep 600")
    assert "had to be stopped" in caplog.text


def test_a_process_that_has_the_id_of_an_ended_rank_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            (tmp_path / "0.pid").write_text(str(stranger.pid))
            job = NodeJob(tmp_path, range(1), 1, signals=JobSignals(), link=AloneLink())
            assert job._running_workers() == []
            with pytest.raises(CrashError, match="Rank 0 of 1 was killed"):
                job.run(["true"], {**os.environ, OUTCOME: str(tmp_path)})
            assert stranger.poll() is None
        finally:
            stranger.kill()
