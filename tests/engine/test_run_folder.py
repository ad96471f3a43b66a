from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from biomedllama_cli.engine.run_folder import take_lock
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
