"""Which work `prepare` keeps, throws away or refuses, and where it may put the corpus."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.corpus.work_folder import WorkIdentity, open_work_folder
from biomedllama_cli.errors import DataError, OutputError
from biomedllama_cli.recipes.prepare import PrepareReport

Prepare = Callable[..., PrepareReport]
STRICT, LENIENT, OTHER = WorkIdentity("a", 2, False), WorkIdentity("a", 2, True), WorkIdentity("b", 2, False)


def leave_work(output: Path, *tasks: str) -> Path:
    """Stop a job of STRICT that has written these task folders, and return its work folder."""
    with suppress(KeyboardInterrupt), open_work_folder(output, STRICT, overwrite=False) as work:
        for name in tasks:
            (work.tasks / name).mkdir(parents=True)
            (work.tasks / name / "summary.json").write_text("{}")
        raise KeyboardInterrupt
    return output.with_name(f".{output.name}.partial")


@pytest.fixture
def letters(tmp_path: Path, records: Any) -> Path:
    """Return a folder of the files a, b and c of five records each."""
    for number, name in enumerate("abc"):
        rows = [records.make_record(records.make_text(10 * number + i)) for i in range(5)]
        records.write_records(tmp_path / "letters" / f"{name}.jsonl", rows)
    return tmp_path / "letters"


def test_tasks_that_a_killed_process_left_half_done_are_removed(tmp_path: Path) -> None:
    leave_work(tmp_path / "corpus", "00000", "00001.77.partial")
    with open_work_folder(tmp_path / "corpus", STRICT, overwrite=False) as work:
        assert work.resumed
        assert [task.name for task in work.tasks.iterdir()] == ["00000"]


def test_half_done_tasks_alone_are_not_worth_keeping(tmp_path: Path) -> None:
    assert not leave_work(tmp_path / "corpus", "00000.77.partial").exists()


@pytest.mark.parametrize("content", [None, "", '{"job": '])
def test_lost_identity_is_no_dead_end(tmp_path: Path, content: str | None) -> None:
    path = leave_work(tmp_path / "corpus", "00000")
    (path / "job.json").unlink()
    if content is not None:
        (path / "job.json").write_text(content)
    with (
        pytest.raises(OutputError, match="unfinished work") as caught,
        open_work_folder(tmp_path / "corpus", STRICT, overwrite=False),
    ):
        pass
    assert "start over with --overwrite" in caught.value.hint
    with open_work_folder(tmp_path / "corpus", STRICT, overwrite=True) as work:
        assert not work.resumed
        assert not work.tasks.exists()


def test_folder_that_is_no_work_of_prepare_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / ".corpus.partial" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with (
        pytest.raises(OutputError, match=r"thesis\.tex"),
        open_work_folder(tmp_path / "corpus", STRICT, overwrite=True),
    ):
        pass
    assert precious.read_text() == "years of work"


def test_identity_is_written_only_when_it_changes(tmp_path: Path) -> None:
    job = leave_work(tmp_path / "corpus", "00000") / "job.json"
    before = job.stat()
    with open_work_folder(tmp_path / "corpus", STRICT, overwrite=False) as work:
        assert work.resumed
    assert (job.stat().st_ino, job.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with open_work_folder(tmp_path / "corpus", LENIENT, overwrite=False) as work:
        assert work.resumed
    assert json.loads(job.read_text())["skip_bad"]
    assert sorted(entry.name for entry in job.parent.iterdir()) == ["job.json", "lock", "tasks", "writers"]


def test_work_of_another_job_without_a_finished_task_is_thrown_away(tmp_path: Path) -> None:
    path = leave_work(tmp_path / "corpus", "00000")
    shutil.rmtree(path / "tasks")
    with open_work_folder(tmp_path / "corpus", OTHER, overwrite=False) as work:
        assert not work.resumed
    assert json.loads((path / "job.json").read_text())["job"] == "b"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_came_into_the_output_meanwhile_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    output = tmp_path / "corpus"
    with open_work_folder(output, STRICT, overwrite=overwrite) as work:
        work.corpus.mkdir()
        output.mkdir()
        (output / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError):
            work.publish(overwrite=overwrite)
    assert (output / "thesis.tex").read_text() == "years of work"


def test_command_with_a_mended_subset_is_not_refused(run_prepare: Prepare, letters: Path) -> None:
    with pytest.raises(DataError, match="No document is left"):
        run_prepare(letters, source={"subset": "pubmed-central"})
    assert [entry.name for entry in letters.parent.iterdir()] == ["letters"]
    assert run_prepare(letters, source={"subset": "pubmed-abstracts"}).state == "finished"


def test_mending_a_file_costs_only_its_own_task(run_prepare: Prepare, letters: Path, records: Any) -> None:
    whole = (letters / "c.jsonl").read_bytes()
    (letters / "c.jsonl").write_bytes(whole + b"oops\n")
    with pytest.raises(DataError, match=r"c\.jsonl, line 6"):
        run_prepare(letters)
    (letters / "c.jsonl").write_bytes(whole)
    # A file whose task was done changes too: that task must not stay.
    rows = [records.make_record(records.make_text(i)) for i in range(100, 107)]
    records.write_records(letters / "a.jsonl", rows)
    report = run_prepare(letters)
    fresh = run_prepare(letters, output_dir=letters.parent / "fresh")
    assert (report.tasks_resumed, fresh.tasks_resumed) == (1, 0)
    assert report.manifest is not None
    assert fresh.manifest is not None
    assert report.manifest.documents.kept == 17
    assert report.manifest.shards == fresh.manifest.shards
    assert report.manifest.inputs == fresh.manifest.inputs


def test_vocabulary_trained_on_a_file_before_it_was_mended_is_not_kept(
    run_prepare: Prepare, letters: Path
) -> None:
    trained = {"vocabulary_size": 330, "tokenizer": None}
    whole = (letters / "c.jsonl").read_bytes()
    (letters / "c.jsonl").write_bytes(whole + b"oops\n")
    with pytest.raises(DataError, match="line 6"):
        run_prepare(letters, tokenization=trained)
    (letters / "c.jsonl").write_bytes(whole)
    with pytest.raises(OutputError, match="unfinished work") as caught:
        run_prepare(letters, tokenization=trained)
    assert "--overwrite" in caught.value.hint
    assert run_prepare(letters, tokenization=trained, overwrite=True).tasks_resumed == 0


def test_other_bos_decision_is_another_job_and_another_word_for_it_is_not(
    run_prepare: Prepare, letters: Path, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    run_prepare(letters)
    assert run_prepare(letters, tokenization={"bos": "always"}).state == "already_finished"
    shutil.copytree(tiny_tokenizer, tmp_path / "no-bos")
    config = tmp_path / "no-bos" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "add_bos_token": False}))
    with pytest.raises(OutputError, match="not empty"):
        run_prepare(letters, tokenization={"tokenizer": str(tmp_path / "no-bos")})


def test_local_folder_in_the_hubs_layout_is_another_job_when_a_file_changes(
    run_prepare: Prepare, tmp_path: Path, records: Any
) -> None:
    file = tmp_path / "hub" / "data" / "train-0.jsonl"
    records.write_records(file, [records.make_record(records.make_text(i)) for i in range(4)])
    hub = {"hub_dataset": str(tmp_path / "hub")}
    assert [run_prepare(source=hub).state for _ in range(2)] == ["finished", "already_finished"]
    records.write_records(file, [records.make_record(records.make_text(i)) for i in range(5)])
    with pytest.raises(OutputError, match="not empty"):
        run_prepare(source=hub)


def test_linked_output_folder_is_filled_where_it_really_is(
    run_prepare: Prepare, letters: Path, tmp_path: Path
) -> None:
    real = tmp_path / "large-disk" / "pubmed"
    real.mkdir(parents=True)
    (tmp_path / "corpus").symlink_to(real)
    assert run_prepare(letters).output_dir == str(real)
    assert (tmp_path / "corpus").is_symlink()
    assert load_corpus(real).manifest.name == "pubmed"


def test_output_that_cannot_be_moved_to_is_refused_before_any_work(
    run_prepare: Prepare, letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "corpus"
    output.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == output)
    with pytest.raises(OutputError, match="mount point") as caught:
        run_prepare(letters)
    assert "inside it" in caught.value.hint
    assert not list(tmp_path.glob(".*"))
    output.rmdir()
    output.symlink_to(output)
    with pytest.raises(OutputError):
        run_prepare(letters)
