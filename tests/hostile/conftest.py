"""Readers run in a process of their own, so that what they need of memory can be told; a disk that gets full."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

collect_ignore = ["evaluate_forks.py", "tuning_forks.py"]  # programs that tests start: no doctests in them

# VmHWM and not ru_maxrss, which begins with what the test's own process needed.
_READ = """
import importlib, sys
from biomedllama_cli.corpus.document import Record

def read_peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

room, name = sys.argv[1].split(":")
reader = getattr(importlib.import_module(room), name)()
before = read_peak()
records, reasons = 0, []
for file in reader.list_inputs((sys.argv[2],)):
    for item in reader.iter_documents(file, lambda position: None):
        records += isinstance(item, Record)
        reasons += [] if isinstance(item, Record) else [item.reason]
print(records, ",".join(reasons) or "-", read_peak() - before)
"""

Measure = Callable[[str, Path], tuple[int, str, int]]


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Return a function that reads `path` with the reader `module:Class`.

    It returns the number of records, the reasons of what was dropped and the peak of the memory (in MiB).
    """

    def start(reader: str, path: Path) -> tuple[int, str, int]:
        command = [sys.executable, "-c", _READ, reader, str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        records, reasons, megabytes = result.stdout.split()
        return int(records), reasons, int(megabytes)

    return start


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a disk in memory, whose size a test sets; skips where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs privileges")
    yield folder
    gc.collect()  # an index that is still mapped keeps the disk busy
    subprocess.run(["umount", "--lazy", folder], check=True)
