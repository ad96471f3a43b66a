"""Memory that is freed around tensors that are kept goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path

import numpy as np

from biomedllama_cli.engine.host_memory import map_large_blocks_apart

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024

if sys.argv[1] == "apart":
    assert map_large_blocks_apart()
before, kept = resident(), []
for layer in range(30):  # as a checkpointed layer does: temporary blocks, and one that stays
    temporary = [np.ones(size * 2**17) for size in (2, 6 + layer % 3, 6, 2)]
    kept.append(np.ones(2 * 2**17))
    del temporary
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_blocks_around_kept_ones_are_given_back() -> None:
    grown = {}
    for mode in ("plain", "apart"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True
        )
        grown[mode] = int(done.stdout)
    assert grown["apart"] < 30 * 2 + 30, "little more than the 60 MiB that are kept"
    assert grown["apart"] < grown["plain"]
