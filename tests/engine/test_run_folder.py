from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from biomedllama_cli.engine.run_folder import Job, list_changes, open_run_folder, plan_start, take_lock
from biomedllama_cli.errors import OutputError


def test_a_lock_that_is_held_refuses_the_folder(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as held, (tmp_path / ".lock").open("w") as lock:
        take_lock(held, tmp_path, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="in use by another process"):
            take_lock(lock, tmp_path, fcntl.LOCK_EX)


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / ".lock").open("w") as lock:
        take_lock(lock, tmp_path, fcntl.LOCK_EX)
    assert "cannot be locked (Function not implemented)" in caplog.text


def test_changes_that_can_be_read_come_first_and_explain_another_order() -> None:
    before = {
        "examples": "a" * 64,
        "order": "b" * 64,
        "held_out": None,
        "adapter.rank": 16,
        "duration.epochs": 3,
    }
    now = {**before, "order": "c" * 64, "held_out": "d" * 64, "adapter.rank": 4}
    assert list_changes(before, now) == [
        "adapter.rank was 16 and is 4",
        f"order was {'b' * 12} and is {'c' * 12}",
        f"held_out was None and is {'d' * 12}",
    ]
    assert list_changes(before, {**now, "duration.epochs": 1, "held_out": None}) == [
        "adapter.rank was 16 and is 4",
        "duration.epochs was 3 and is 1",
    ]


def test_what_an_earlier_version_did_not_write_down_is_no_change() -> None:
    assert list_changes({"seed": 0}, {"seed": 0, "tokenizer": "a" * 64, "monitor.spikes": "off"}) == []
    assert list_changes({"tokenizer": "a" * 64}, {"tokenizer": "b" * 64}) != []
    assert list_changes({"seed": 0, "tokenizer": "a" * 64}, {"seed": 0}) != []


def test_a_run_does_not_delete_the_model_it_starts_from(tmp_path: Path) -> None:
    folder, other = tmp_path / "run", Job({"seed": 0}, {"model": "scratch:tiny"})
    with open_run_folder(plan_start(folder, other, resume="auto", overwrite=False), other, {}):
        model = folder / "checkpoints" / "step-00000001"
        model.mkdir(parents=True)
    from_inside = Job({"seed": 0}, {"model": str(model)})
    with pytest.raises(OutputError, match="would be deleted, and the model to start from"):
        plan_start(folder, from_inside, resume="auto", overwrite=True)
    assert plan_start(folder, Job({"seed": 1}, other.other), resume="auto", overwrite=True).replaces
