"""Holes between live blocks go back to the system when asked."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
from pathlib import Path

import numpy as np

from biomedllama_cli.models.heap import give_back_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024

np.ones(4 * 2**17)  # once freed, blocks of its size are no longer mapped by themselves
kept, freed = [], []
for layer in range(30):
    freed.append(np.ones(3 * 2**17))
    kept.append(np.ones(2**17))
freed.clear()
before = resident()
told = give_back_freed_memory()
print(before - resident(), told, sum(map(len, kept)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is glibc's")
def test_freed_blocks_between_kept_ones_are_given_back_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    given_back, told, kept = done.stdout.split()
    assert int(given_back) > 60, "of 90 MiB that lay free"
    assert told == "True"
    assert int(kept) == 30 * 2**17
