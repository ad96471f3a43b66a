"""metrics.jsonl: one JSON object per step and per validation, appended and flushed as they come."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from biomedllama_cli.corpus.durable import write_atomically

METRICS_FILE = "metrics.jsonl"
SOURCE_LOSS = "train/loss/"
"""Before the name of a source: the training loss of what is of it."""
_OF_TRAINING = frozenset({"train/loss", "checkpoint/step"})
"""What tells the line of a step or a checkpoint from that of a look."""


class MetricsWriter:
    """Append metric lines to a run's `metrics.jsonl`.

    Lines after `resumed_step` are cut off first: the resumed run writes them again.

    Args:
        run_folder: folder of the run, or None on ranks that write nothing.
        resumed_step: step of the checkpoint the run starts from, -1 for a fresh start.
        looks_again: what was measured at that step is written again, too.
    """

    def __init__(self, run_folder: Path | None, resumed_step: int, *, looks_again: bool = False) -> None:
        self._file: TextIO | None = None
        if run_folder is not None:
            path = run_folder / METRICS_FILE
            lines = [line for line in iter_metrics(path) if line["step"] <= resumed_step]
            kept = [
                format_line(line)
                for line in lines
                if not looks_again or line["step"] < resumed_step or not _OF_TRAINING.isdisjoint(line)
            ]
            write_atomically(path, "".join(kept), flush=False)
            self._file = path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; it holds a `step`."""
        if self._file is not None:
            self._file.write(format_line(line))
            self._file.flush()

    def __enter__(self) -> MetricsWriter:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def format_line(line: Mapping[str, Any]) -> str:
    """Return one line of the file; JSON has no infinite numbers and no NaN, so they become null.

    >>> print(format_line({"step": 3, "train/grad_norm": math.inf}), end="")
    {"step": 3, "train/grad_norm": null}
    """
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def iter_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Generate the lines of a metrics file; a last line cut short by a kill is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for text in lines:
            if text.endswith("\n"):
                yield json.loads(text)
