from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from biomedllama_cli.report import progress as progress_module
from biomedllama_cli.report.progress import Progress


def test_time_left_after_a_resume_follows_from_this_start_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    caplog.set_level(logging.INFO, logger="biomedllama_cli")
    with Progress("pretrain", 1000, "steps", every_seconds=1) as progress:
        clock.now += 500  # loading
        progress.start_at(900)
        clock.now += 10
        progress.advance(1, "loss 2.000")
    assert caplog.messages == ["pretrain: 901 of 1,000 steps, 6.0/min, 990 s left  loss 2.000"]
