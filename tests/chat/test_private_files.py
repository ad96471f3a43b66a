"""Files for their owner alone."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.chat.private_files import be_only_writer, check_folder, open_private, write_private
from biomedllama_cli.errors import OutputError


@pytest.fixture(params=[0o000, 0o022, 0o777], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """Set a mask of new files' modes for one test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    """Return the permission bits of a path."""
    return stat.S_IMODE(path.lstat().st_mode)


def test_new_files_are_for_their_owner_alone_under_any_umask(tmp_path: Path, umask: int) -> None:
    write_private(tmp_path / "written", "a")
    with open_private(tmp_path / "opened") as file:
        assert mode_of(tmp_path / "opened") == 0o600  # before anything is written
        file.write("b")
    assert mode_of(tmp_path / "written") == 0o600
    assert (tmp_path / "written").read_text() == "a"
    assert (tmp_path / "opened").read_text() == "b"


def test_a_new_file_is_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.open

    def spy(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            asked.append(mode)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", spy)
    open_private(tmp_path / "opened").close()
    write_private(tmp_path / "written", "a")
    assert asked == [0o600, 0o600]


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_text("old ")
    path.chmod(0o666)
    with open_private(path) as file:
        assert mode_of(path) == 0o600
        file.write("new")
    assert path.read_text() == "old new"


def test_a_replaced_file_loses_its_wide_mode(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), mode_of(path)) == ("new", 0o600)


def test_missing_folders_are_made_for_their_owner_and_others_stay(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    write_private(there / "a" / "b" / "file", "x")
    assert mode_of(there) == 0o755
    assert mode_of(there / "a") == mode_of(there / "a" / "b") == 0o700


def _write(path: Path) -> None:
    write_private(path, "secret")


def _append(path: Path) -> None:
    with open_private(path) as file:
        file.write("secret")


@pytest.mark.parametrize("write", [_write, _append])
@pytest.mark.parametrize("target", ["there", "missing"])
def test_symbolic_links_are_refused(tmp_path: Path, write: object, target: str) -> None:
    (tmp_path / "there").write_text("untouched")
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(OutputError, match=r"link is a symbolic link"):
        write(tmp_path / "link")  # type: ignore[operator]
    assert (tmp_path / "there").read_text() == "untouched"
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("write", [_write, _append])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path, write: object, kind: str) -> None:
    path = tmp_path / "path"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/null")
    before = mode_of(path)
    with pytest.raises(OutputError, match=r"is no ordinary file"):
        write(path)  # type: ignore[operator]
    assert mode_of(path) == before


@pytest.mark.parametrize("write", [_write, _append])
def test_another_users_file_is_refused(
    tmp_path: Path, write: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "path"
    path.write_text("theirs")
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(OutputError, match=r"belongs to another user"):
        write(path)  # type: ignore[operator]
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("write", [_write, _append])
def test_a_folder_that_is_a_file_is_named(tmp_path: Path, write: object) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"folder .*file.* cannot be made"):
        write(tmp_path / "file" / "below")  # type: ignore[operator]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_private(path, "old")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"file cannot be written: No space left on device\."):
        write_private(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_text_that_is_no_unicode_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "new \ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_read_gets_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse_folder(path: Any, flags: int, *arguments: Any, **others: Any) -> int:
        if Path(path) == tmp_path:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *arguments, **others)

    monkeypatch.setattr(os, "open", refuse_folder)
    write_private(tmp_path / "file", "a")
    assert (tmp_path / "file").read_text() == "a"


def test_a_long_name_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_private(path, "a")
    assert path.read_text() == "a"


def test_a_folder_is_checked_before_there_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(OutputError, match=rf"below cannot be made: .*{name} is no folder\."):
            check_folder(tmp_path / name / "below")
    asked: list[object] = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    with pytest.raises(OutputError, match=r"Files cannot be made in .*: Permission denied\."):
        check_folder(tmp_path / "a" / "b")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with (
        be_only_writer(path),
        pytest.raises(OutputError, match=r"being written by another process"),
        be_only_writer(path, 0.1),
    ):
        pass
    with be_only_writer(path, 0.0):
        pass


def test_a_file_system_without_locks_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with be_only_writer(tmp_path / "file"):
        write_private(tmp_path / "file", "a")
    assert (tmp_path / "file").read_text() == "a"
