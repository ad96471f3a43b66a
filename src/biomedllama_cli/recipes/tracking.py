"""Trackers of a run, from its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from biomedllama_cli.engine.onlookers import MetricSink
from biomedllama_cli.engine.run_folder import RunStart
from biomedllama_cli.engine.tracking import TrackedRun, open_trackers
from biomedllama_cli.settings.pretrain import MonitorSettings


def open_run_trackers(
    monitor: MonitorSettings, start: RunStart, settings: Mapping[str, Any], accelerator: Accelerator
) -> Sequence[MetricSink]:
    """Begin or continue a run in its trackers, on rank 0; the run folder is open for writing.

    Args:
        monitor: says which trackers.
        start: how the run begins.
        settings: all of them, as JSON holds them.
        accelerator: says which rank this is.

    Raises:
        UnavailableError: one cannot be started.
    """
    if not accelerator.is_main_process:
        return ()
    step = start.progress.step if start.progress is not None else -1
    return open_trackers(monitor.track, TrackedRun(start.folder, monitor.track_project, settings, step))
