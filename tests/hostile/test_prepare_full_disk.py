"""`prepare` on a disk without room: one sentence, nothing half-visible, and it goes on when there is room again."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomedllama_cli.corpus.disk import explain_full_disk, is_full_disk, map_new_file
from biomedllama_cli.errors import DataError, OutputError

FILES = 4
KILOBYTE = 1 << 10


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, corpora: Any) -> Path:
    """Return input of four parts of about 200 kB of ids each, a tokenizer, and the corpus of an undisturbed run."""
    folder = tmp_path_factory.mktemp("material")
    corpora.write_tokenizer(folder / "tokenizer")
    corpora.write_input(folder / "input", FILES, documents=120, words=240)
    code, report = prepare(folder, folder / "expected")
    assert code == 0, report
    return folder


def prepare(
    material: Path, output: Path, *arguments: str, before: Callable[[], None] | None = None
) -> tuple[int, dict[str, Any]]:
    command = [
        sys.executable,
        "-m",
        "biomedllama_cli",
        "prepare",
        "--input",
        str(material / "input"),
        "--json",
    ]
    command += ["--tokenizer", str(material / "tokenizer"), "--output-dir", str(output), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=before)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


# 100 kB: less than a task writes. 500 kB: enough for every task, less than the shard put together from them.
@pytest.mark.parametrize(("kilobytes", "workers", "tasks"), [(100, 1, 0), (100, 2, 0), (500, 1, FILES)])
def test_no_room_is_one_sentence_and_finished_tasks_are_kept(
    material: Path, tmp_path: Path, kilobytes: int, workers: int, tasks: int, corpora: Any
) -> None:
    output = tmp_path / "corpus"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * KILOBYTE, kilobytes * KILOBYTE))

    code, report = prepare(material, output, "--workers", str(workers), before=limit)
    assert (code, report["error"]["kind"]) == (6, "OutputError"), report
    assert str(tmp_path) in report["error"]["message"]
    assert "Make room" in report["error"]["hint"]
    assert not output.exists()
    code, report = prepare(material, output)
    assert (code, report["tasks_resumed"]) == (0, tasks)
    assert corpora.read_corpus(output) == corpora.read_corpus(material / "expected")
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus"]


def set_size(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)


@pytest.mark.parametrize("kilobytes", [64, 700, 1000, 1600, 2000])
def test_full_disk_at_any_stage_leaves_nothing_half_visible(
    material: Path, small_disk: Path, kilobytes: int, corpora: Any
) -> None:
    set_size(small_disk, kilobytes)
    output = small_disk / "corpus"
    code, report = prepare(material, output, "--workers", "2")
    assert (code, report["error"]["kind"]) == (6, "OutputError"), report
    assert f"mounted at {small_disk}" in report["error"]["message"]
    assert not output.exists()
    set_size(small_disk, 20_000)
    code, report = prepare(material, output, "--workers", "2")
    assert code == 0, report
    assert corpora.read_corpus(output) == corpora.read_corpus(material / "expected")
    assert [entry.name for entry in small_disk.iterdir()] == ["corpus"]


def test_mapped_file_takes_its_room_at_once(small_disk: Path) -> None:
    set_size(small_disk, 64)
    with pytest.raises(OutputError, match="is full"), explain_full_disk(small_disk):
        map_new_file(small_disk / "flags", 1 << 20)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, os.strerror(28)),
        OSError("1000 requested and 12 written"),  # numpy
        Exception("No space left on device (os error 28)"),  # tokenizers
        RuntimeError("INTERNAL: writing failed: No space left on device"),  # sentencepiece
    ],
)
def test_every_librarys_word_for_a_full_disk_is_known(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is full"), explain_full_disk(tmp_path):
        raise error


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for error in (DataError("no space left on device, says line 3"), OSError(13, "no"), ValueError("x")):
        assert not is_full_disk(error)
        with pytest.raises(type(error)), explain_full_disk(tmp_path):
            raise error


def test_numpys_own_error_for_a_full_disk_is_the_one_that_is_known(small_disk: Path) -> None:
    set_size(small_disk, 64)
    with pytest.raises(OSError) as caught, (small_disk / "counts.npy").open("wb") as file:
        np.zeros(1 << 20, np.uint8).tofile(file)
    assert is_full_disk(caught.value)
