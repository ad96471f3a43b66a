"""The same corpus from any number of workers, and tasks that look where they are before they write."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.corpus.locks import read_token
from biomedllama_cli.corpus.work_folder import find_work_folder
from biomedllama_cli.errors import DataError, SettingsError, UnavailableError, WorkerError
from biomedllama_cli.recipes import prepare_task
from biomedllama_cli.recipes.prepare import PrepareReport
from biomedllama_cli.recipes.prepare_task import list_failures, run_task

Prepare = Callable[..., PrepareReport]
FILES = 9


@pytest.fixture
def inputs(tmp_path: Path, records: Any) -> Path:
    """Return a folder of nine files, some of whose documents come twice."""
    for number in range(FILES):
        rows = [records.make_record(records.make_text(5 * number + i)) for i in range(7)]
        records.write_records(tmp_path / "input" / f"{number}.jsonl", rows)
    return tmp_path / "input"


@pytest.mark.slow
def test_corpus_is_byte_identical_for_one_two_and_seven_workers(
    run_prepare: Prepare, inputs: Path, tmp_path: Path, corpora: Any
) -> None:
    made = []
    for workers in (1, 2, 7):
        output = tmp_path / str(workers)
        report = run_prepare(inputs, output_dir=output, executor={"workers": workers})
        assert (report.state, report.tasks) == ("finished", FILES)
        made.append(corpora.read_corpus(output))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) > 5


def test_log_says_that_one_file_is_no_work_for_two(
    run_prepare: Prepare, inputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "biomedllama_cli")
    run_prepare(inputs / "0.jsonl", executor={"workers": 2})
    assert "1 of 2 workers are used" in caplog.text


@pytest.fixture
def submitted(
    run_prepare: Prepare, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Return the work folder of a job whose tasks another machine is to run; come back to this folder at the end."""
    stub = tmp_path / "bin" / "sbatch"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\necho 7\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    assert run_prepare(inputs, executor={"executor": "slurm"}).state == "submitted"
    prepare_task._build_executor.cache_clear()
    monkeypatch.chdir(".")
    yield find_work_folder(tmp_path / "corpus")
    prepare_task._build_executor.cache_clear()


def test_task_runs_from_the_description_alone(submitted: Path) -> None:
    run_task(str(submitted), read_token(submitted), 3)
    assert (submitted / "tasks" / "00003" / "summary.json").exists()
    before = (submitted / "tasks" / "00003").stat().st_ino
    run_task(str(submitted), read_token(submitted), 3)  # a second time it is not done again
    assert (submitted / "tasks" / "00003").stat().st_ino == before


def test_task_refuses_other_versions(submitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = prepare_task.list_versions()
    monkeypatch.setattr(prepare_task, "list_versions", lambda: here | {"tokenizers": "0.1"})
    with pytest.raises(UnavailableError, match=r"tokenizers is 0\.1 on"):
        run_task(str(submitted), read_token(submitted), 0)
    assert not (submitted / "tasks").exists()
    assert "tokenizers is 0.1" in list_failures(submitted)[0]


def test_task_refuses_an_input_that_is_another_here(submitted: Path, inputs: Path) -> None:
    with (inputs / "8.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(DataError, match="not the one the job was begun with: 9 files"):
        run_task(str(submitted), read_token(submitted), 0)
    assert not (submitted / "tasks").exists()


def test_task_of_no_job_or_of_another_writes_nothing(submitted: Path, tmp_path: Path) -> None:
    for work, token in ((tmp_path / "nothing", "0" * 16), (submitted, "0" * 16)):
        with pytest.raises(WorkerError):
            run_task(str(work), token, 0)
    assert not (tmp_path / "nothing").exists()
    assert not (submitted / "tasks").exists()


def test_option_for_slurm_is_checked_before_any_work(
    run_prepare: Prepare, inputs: Path, tmp_path: Path
) -> None:
    for dry_run in (True, False):
        with pytest.raises(SettingsError, match="slurm_option"):
            run_prepare(inputs, dry_run=dry_run, executor={"executor": "slurm", "slurm_option": ("--a\nb",)})
    assert not find_work_folder(tmp_path / "corpus").exists()


def test_log_says_when_the_number_of_documents_keeps_workers_idle(
    run_prepare: Prepare, inputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "biomedllama_cli")
    run_prepare(inputs, executor={"workers": 4}, source={"max_documents": 10})
    assert "1 of 4 workers are used: --max-documents" in caplog.text
