"""`biomedllama`, whose ranks can be held before a step: `python -m held_command ARGUMENTS`.

HELD is `STEP:FILE`: while the file is there, no rank trains a later step. A test removes the file, or a rank that is
asked to stop, since the step that answers it takes all ranks.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from biomedllama_cli.cli.app import run
from biomedllama_cli.engine import launch

LONGEST_SECONDS = 180  # a test that has failed leaves the file


def hold(last: int, file: Path) -> None:
    """Make the training loop wait after a step."""
    from biomedllama_cli.engine.loop import Loop

    train = Loop._train

    def train_unless_held(self: Loop, step: int, batches: Any, stop: Any) -> Any:
        end = time.monotonic() + LONGEST_SECONDS
        while step > last and file.exists() and not stop.requested and time.monotonic() < end:
            time.sleep(0.02)
        if stop.requested:
            file.unlink(missing_ok=True)
        return train(self, step, batches, stop)

    Loop._train = train_unless_held  # type: ignore[method-assign]


if __name__ == "__main__":
    launch.MODULE = "held_command"
    if "RANK" in os.environ:  # not in a launcher, which never loads torch
        step, _, path = os.environ["HELD"].partition(":")
        hold(int(step), Path(path))
    sys.exit(run(sys.argv[1:]))
