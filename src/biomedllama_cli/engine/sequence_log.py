"""Writes the log of what every step was fed (see engine/sequence_frames.py); for rank 0 alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from biomedllama_cli.corpus.durable import flush_path, name_temporary
from biomedllama_cli.engine.onlookers import StepFacts, Watcher
from biomedllama_cli.engine.sequence_frames import SEQUENCE_LOG, FedStep, Start


class SequenceLog(Watcher):
    """A watcher that appends the ids and the checksum of what the ranks were fed.

    Every frame goes to the operating system with one call, so that a killed process loses none; `flush` puts them on
    the disk before a checkpoint is complete, so that the log is never behind a checkpoint.

    Args:
        folder: the run folder.
        facts: what is trained on, in what order and on how many ranks.
        continued: checkpoint that is continued, or None. Where it is one of another run, that run's log comes first.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], continued: Path | None = None) -> None:
        self._path, self._facts, self._continued = folder / SEQUENCE_LOG, dict(facts), continued
        self._descriptor: int | None = None

    def begin(self, step: int) -> None:
        """Note a start after a step."""
        if step > 0 and self._continued is not None and not self._path.exists():
            self._take_over(self._continued.resolve().parents[1] / SEQUENCE_LOG)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._append(Start(step, {"started": started, **self._facts}).encode())

    def note(self, facts: StepFacts) -> Mapping[str, float]:
        """Append what one step was fed."""
        fed = FedStep.of(
            facts.step,
            facts.row_ids,
            facts.row_checks,
            targets=int(facts.row_targets.sum()),
            was_updated=facts.was_accepted,
        )
        self._append(fed.encode())
        return {}

    def flush(self) -> None:
        """Put what was noted on the disk."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            flush_path(self._path.parent)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take_over(self, other: Path) -> None:
        """Begin with the log of the run whose checkpoint is continued; what follows goes on from there."""
        if other.is_file():
            temporary = name_temporary(self._path)
            temporary.unlink(missing_ok=True)  # a link of that name would be followed
            shutil.copyfile(other, temporary)
            temporary.replace(self._path)

    def _append(self, frame: bytes) -> None:
        assert self._descriptor is not None
        view = memoryview(frame)
        while view:  # a disk that fills up takes a part
            view = view[os.write(self._descriptor, view) :]
