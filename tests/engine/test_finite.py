"""Rows and gradients that are not finite end a run, and it says where and what to go on from."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biomedllama_cli.engine import checkpoint_writer
from biomedllama_cli.engine.checkpoint import Saver, load_progress
from biomedllama_cli.engine.finite import LONGEST_OVERFLOW, FiniteCheck, name_last_good
from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.engine.saved_runs import find_checkpoint
from biomedllama_cli.errors import ModelError


def write_checkpoints(folder: Path, *steps: int) -> list[str]:
    folders = [folder / "checkpoints" / f"step-{step:08d}" for step in steps]
    for each in folders:
        each.mkdir(parents=True)
        (each / "COMPLETE").touch()
    return [str(each) for each in folders]


def break_row(loop: Any, row: int) -> None:
    """Make the loader give one row a token whose embedding is not finite."""
    original = loop._data.rows.__getitems__
    with torch.no_grad():
        loop._model.get_input_embeddings().weight[63] = float("inf")
    assert not loop._model.config.tie_word_embeddings

    def give(indices: Any) -> Any:
        batch = original(indices)
        for line, index in enumerate(indices):
            if index == row:
                batch["input_ids"][line, -1] = 63
                batch["labels"][line, -1] = 5
        return batch

    loop._data.rows.__getitems__ = give


def test_the_row_that_is_not_finite_is_named_and_no_other(
    build_loop: Callable[..., Any], tmp_path: Path
) -> None:
    loop = build_loop(tmp_path, save_every_steps=4, adapt=lambda model: untie(model))
    row = int(loop._data.order.step_sequences(6)[5])
    first = next(step for step in range(1, 41) if row in loop._data.order.step_sequences(step))
    break_row(loop, row)
    with pytest.raises(
        ModelError, match=rf"step {first} is not finite \(learning rate .*, sequences {row}\); "
    ):
        loop.run()


def untie(model: Any) -> None:
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())


def test_a_gradient_that_is_not_finite_ends_the_run_too(
    build_loop: Callable[..., Any], after_step: Any, tmp_path: Path
) -> None:
    def poison() -> None:
        next(iter(loop._model.parameters())).register_hook(lambda gradient: gradient * float("nan"))

    loop = build_loop(tmp_path, progress=after_step(7, poison), save_every_steps=5)
    with pytest.raises(ModelError, match="The gradient of step 8 is not finite") as broken:
        loop.run()
    assert "the last good checkpoint is" in broken.value.message
    assert broken.value.message.endswith("checkpoints/step-00000005.")


def test_a_checkpoint_that_is_being_written_is_completed_and_named(
    build_loop: Callable[..., Any], after_step: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the background a save may take many steps; the steps up to it must not be lost with the broken one."""
    broken, write = threading.Event(), checkpoint_writer.write_tensor

    def write_late(*arguments: Any) -> None:
        broken.wait(20)
        write(*arguments)

    def poison() -> None:
        next(iter(loop._model.parameters())).register_hook(lambda gradient: gradient * float("nan"))
        threading.Timer(0.3, broken.set).start()

    monkeypatch.setattr(checkpoint_writer, "write_tensor", write_late)
    loop = build_loop(tmp_path, progress=after_step(7, poison), save_every_steps=5)
    settings = loop._settings.checkpoint.model_copy(update={"save_in_background": True})
    loop._saver = Saver(loop._run, loop._accelerator, settings)
    with pytest.raises(ModelError, match="The gradient of step 8 is not finite") as ended:
        loop.run()
    assert ended.value.message.endswith("checkpoints/step-00000005.")
    newest = find_checkpoint(tmp_path)
    assert newest is not None
    assert load_progress(newest).step == 5


@pytest.mark.parametrize("step", [5, 6])
def test_a_checkpoint_well_before_is_good(tmp_path: Path, step: int) -> None:
    *_, newest = write_checkpoints(tmp_path, 2, 3)
    assert name_last_good(tmp_path, step) == (f"the last good checkpoint is {newest}", "")


def test_a_checkpoint_of_the_step_before_may_hold_the_cause(tmp_path: Path) -> None:
    older, newest = write_checkpoints(tmp_path, 2, 4)
    saved, caution = name_last_good(tmp_path, 5)
    assert saved == f"the last checkpoint that is known to be good is {older}"
    assert caution.startswith(newest)


def test_the_only_checkpoint_is_named_with_caution(tmp_path: Path) -> None:
    assert name_last_good(tmp_path, 1) == ("nothing was saved before", "")
    (only,) = write_checkpoints(tmp_path, 4)
    saved, caution = name_last_good(tmp_path, 5)
    assert saved == f"the last checkpoint is {only}"
    assert "may hold the cause" in caution


def measure(grad_norm: float) -> StepFacts:
    one, nobody = np.ones(1), np.zeros(1, np.int64)
    return StepFacts(one, one, grad_norm, rank_seconds=np.zeros((1, 2)), row_ids=nobody, row_checks=nobody)


@pytest.mark.parametrize("grad_norm", [math.inf, math.nan])
def test_a_run_in_fp16_whose_every_update_overflows_ends_once_its_checkpoint_is_complete(
    tmp_path: Path, grad_norm: float
) -> None:
    def finish_saving() -> None:
        write_checkpoints(tmp_path, 8, 70)  # before the first of these steps, and in the midst of them

    data: Any = None
    check = FiniteCheck(data, tmp_path, is_scaled=True, finish_saving=finish_saving)
    for step in range(10, 9 + LONGEST_OVERFLOW):
        check.check(measure(grad_norm), step, 1e-3)
    with pytest.raises(
        ModelError, match=f"last {LONGEST_OVERFLOW} steps, up to step 73, was finite"
    ) as ended:
        check.check(measure(grad_norm), 73, 1e-3)
    assert ended.value.message.endswith(
        f"; the last good checkpoint is {tmp_path / 'checkpoints' / 'step-00000008'}."
    )


def test_a_finite_gradient_between_overflows_starts_the_count_anew(tmp_path: Path) -> None:
    data: Any = None
    check = FiniteCheck(data, tmp_path, is_scaled=True, finish_saving=lambda: None)
    for step in range(1, 4 * LONGEST_OVERFLOW):
        check.check(measure(1.0 if step % LONGEST_OVERFLOW == 0 else math.inf), step, 1e-3)
