"""What is finished stays finished, whatever ends the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from biomedllama_cli.errors import OutputError
from biomedllama_cli.evaluation.journal import digest, find_in_journals, open_journal, remove_journal

IDENTITY = {"model": "m", "settings": {"seed": 42}}


def test_a_later_start_finds_what_an_earlier_one_finished_to_the_bit(tmp_path):
    value = [[-0.1 - 0.2, 3, 1, 0], [-1e-300, 1, 0, 1]]
    with open_journal(tmp_path, IDENTITY) as journal:
        journal.append("key", "medqa", "7", value)
    with open_journal(tmp_path, IDENTITY) as journal:
        assert journal.find("key") == value
        assert journal.found == 1
        assert journal.find("other") is None


def test_another_identity_finds_nothing(tmp_path):
    with open_journal(tmp_path, IDENTITY) as journal:
        journal.append("key", "medqa", "7", 1)
    with open_journal(tmp_path, {**IDENTITY, "model": "n"}) as journal:
        assert journal.find("key") is None


def test_the_line_a_kill_cut_short_is_forgotten_and_the_next_one_is_whole(tmp_path):
    with open_journal(tmp_path, IDENTITY) as journal:
        journal.append("first", "medqa", "1", 1.5)
        path = journal.folder / "finished-0.jsonl"
    with path.open("a") as file:
        file.write('{"key": "second", "task": "medqa", "id": "2", "va')
    with open_journal(tmp_path, IDENTITY) as journal:
        assert (journal.find("first"), journal.find("second")) == (1.5, None)
        journal.append("third", "medqa", "3", 3.5)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["first", "third"]


def test_what_was_appended_survives_a_kill(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from biomedllama_cli.evaluation.journal import open_journal\n"
        f"with open_journal(Path(sys.argv[1]), {IDENTITY!r}) as journal:\n"
        "    journal.append('key', 'medqa', '1', [[-1.25, 1, 0, 0]])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, timeout=120)
    assert ended.returncode == -9
    with open_journal(tmp_path, IDENTITY) as journal:
        assert journal.find("key") == [[-1.25, 1, 0, 0]]


def test_ranks_write_their_own_files_and_read_all(tmp_path):
    with (
        open_journal(tmp_path, IDENTITY, rank=0) as first,
        open_journal(tmp_path, IDENTITY, rank=1) as second,
    ):
        first.append("a", "medqa", "1", 1)
        second.append("b", "medqa", "2", 2)
    with open_journal(tmp_path, IDENTITY) as journal:
        assert (journal.find("a"), journal.find("b")) == (1, 2)


def test_the_same_command_at_the_same_time_is_refused(tmp_path):
    second = open_journal(tmp_path, IDENTITY)
    with open_journal(tmp_path, IDENTITY), pytest.raises(OutputError, match="running already"), second:
        pass


def test_nothing_is_left_after_the_results_are_written(tmp_path):
    with open_journal(tmp_path, IDENTITY) as journal:
        journal.append("a", "medqa", "1", 1)
        remove_journal(journal.folder)  # held: nobody's work is taken from under them
        assert journal.folder.is_dir()
    remove_journal(journal.folder)
    remove_journal(journal.folder)
    assert not any(tmp_path.iterdir())


def test_the_digest_sees_every_value():
    assert digest(IDENTITY) != digest({"model": "m", "settings": {"seed": 43}})


def test_a_folder_that_another_process_removes_meanwhile_is_as_good_as_gone(tmp_path, monkeypatch):
    for name in ("m", "n"):
        with open_journal(tmp_path, {**IDENTITY, "model": name}) as journal:
            journal.append("key", "medqa", "7", name)
    removed, read = sorted(tmp_path.iterdir())[0], Path.read_bytes

    def read_after_removal(path: Path) -> bytes:
        if path.parent == removed:
            remove_journal(removed)
        return read(path)

    (kept,) = [value for value in find_in_journals(tmp_path, "key") if value not in _values(removed)]
    monkeypatch.setattr(Path, "read_bytes", read_after_removal)
    assert find_in_journals(tmp_path, "key") == [kept]
    assert not removed.exists()


def _values(folder: Path) -> list[str]:
    return [json.loads(line)["value"] for line in (folder / "finished-0.jsonl").read_text().splitlines()]
