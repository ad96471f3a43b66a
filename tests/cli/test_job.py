"""Commands that train: what becomes of errors that only training has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from biomedllama_cli.cli.app import run
from biomedllama_cli.errors import ExitCode

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB. "
    + "More words. " * 40
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), RuntimeError(CPU)])
def test_too_little_memory_is_an_error_that_names_what_takes_less(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_into(error, monkeypatch) == ExitCode.USAGE
    said = " ".join(capsys.readouterr().err.split())
    assert "allocate" in said
    assert len(said) < 600
    for name in ("--micro-batch-size", "--activation-checkpointing", "--dry-run"):
        assert name in said


def test_any_other_error_of_torch_stays_unexpected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        train_into(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), monkeypatch) == ExitCode.FAILURE
    )


def train_into(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    def recipe(settings: Any, *, dry_run: bool) -> None:
        raise error

    monkeypatch.setattr("biomedllama_cli.recipes.pretrain.pretrain", recipe)
    return run(["pretrain", "--model", "scratch:tiny", "--device", "cpu"])
