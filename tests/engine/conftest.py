"""Token shards in memory, as `corpus.shards.load_shard` gives them from disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.checkpoint import RunFolder, load_optimizer, load_progress
from biomedllama_cli.engine.loader import RunData
from biomedllama_cli.engine.loop import Loop, LoopSettings, Trainee
from biomedllama_cli.engine.mixture import Mixture
from biomedllama_cli.engine.onlookers import NOBODY
from biomedllama_cli.engine.optimizer import build_optimizer
from biomedllama_cli.engine.order import build_batch_plan, build_sequence_order
from biomedllama_cli.engine.rows import PackedRows
from biomedllama_cli.engine.validation import Validator, count_split_targets
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.settings.pretrain import (
    BatchSettings,
    CheckpointSettings,
    DurationSettings,
    MonitorSettings,
    NumericsSettings,
    OptimizerSettings,
    ParallelSettings,
    ScheduleSettings,
)

BOS, EOS = 1, 2


@pytest.fixture(scope="session")
def build_shard() -> Callable[..., SimpleNamespace]:
    """Return a builder of shards from documents given as lists of ids."""

    def build(documents: Sequence[Sequence[int]], *, bos: bool = False) -> SimpleNamespace:
        framed = [[BOS] * bos + list(document) + [EOS] for document in documents]
        tokens = np.concatenate([np.array(document, dtype=np.uint16) for document in framed])
        starts = np.cumsum([0] + [len(document) for document in framed], dtype=np.int64)
        return SimpleNamespace(token_ids=tokens, document_starts=starts)

    return build


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that stands for a corpus's tokenizer; only copied by the engine."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def build_loop(build_shard: Callable[..., Any], tokenizer_folder: Path) -> Callable[..., Loop]:
    """Return a builder of loops that train `scratch:tiny` on random documents."""

    def build(folder: Path, *, progress: Any = None, resume: Path | None = None, **changes: Any) -> Loop:
        generator = np.random.default_rng(0)
        documents = [
            (3 + generator.integers(0, 8, size) ** 2).tolist() for size in generator.integers(3, 40, 120)
        ]
        shards = [build_shard(documents[:70]), build_shard(documents[70:])]
        batch = BatchSettings(
            sequence_length=16, global_batch_size=8, micro_batch_size=changes.pop("micro_batch_size", 4)
        )
        rows = PackedRows(shards, 16, eos_id=EOS, has_bos=False)
        duration = DurationSettings(epochs=100, max_steps=changes.pop("max_steps", 40))
        AcceleratorState._reset_state(reset_partial_state=True)  # one process may only build one kind
        accelerator = build_accelerator(
            ParallelSettings(device="cpu"), NumericsSettings(precision=changes.pop("precision", "fp32"))
        )
        optimizer_settings = OptimizerSettings(peak_learning_rate=changes.pop("peak_learning_rate", 3e-3))
        source = changes.pop("source", resume or "scratch:tiny")
        model = load_model(str(source), attention="eager", vocabulary_size=64, eos_id=EOS, seed=0)
        set_attention_dropout(model, changes.pop("dropout", 0.0))
        torch.manual_seed(0)
        changes.pop("adapt", lambda model: None)(model)
        enable_token_losses(model)
        optimizer = build_optimizer(model, optimizer_settings)
        model, optimizer = prepare(accelerator, model, optimizer)
        if resume:
            load_optimizer(resume, model, optimizer)
        held_out = [build_shard(documents[:10])]
        validator = Validator(
            PackedRows(held_out, 16, eos_id=EOS, has_bos=False),
            split_target_tokens=count_split_targets(held_out, has_bos=False),
            split_bytes=500,
            micro_batch_size=4,
            max_sequences=None,
        )
        order = build_sequence_order(Mixture.of([("pile", len(rows))], {}), batch, duration, seed=3)
        return Loop(
            Trainee(accelerator, model, optimizer),
            RunData(rows, order, build_batch_plan(batch, 1), validator),
            RunFolder(
                folder, tokenizer_folder, {"seed": 3}, resume, load_progress(resume) if resume else None
            ),
            LoopSettings(
                optimizer=optimizer_settings,
                schedule=ScheduleSettings(),
                checkpoint=CheckpointSettings(
                    save_every_steps=changes.pop("save_every_steps", 1000),
                    keep_checkpoints=changes.pop("keep_checkpoints", 3),
                ),
                monitor=MonitorSettings(validate_every_steps=changes.pop("validate_every_steps", 15)),
                data_rank=0,
                data_ranks=1,
                data_workers=changes.pop("data_workers", 0),
                flops_per_token=1e6,
                peak_flops=changes.pop("peak_flops", None),
                keep_best=changes.pop("keep_best", False),
                patience=changes.pop("patience", None),
            ),
            progress or Silence(),
            onlookers=changes.pop("onlookers", NOBODY),
        )

    return build


def set_attention_dropout(model: Any, probability: float) -> None:
    """Give a Llama dropout, the one part of a step that draws random numbers."""
    model.config.attention_dropout = probability
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = probability


class Silence:
    """A progress reporter that says nothing, and does something after one step."""

    def __init__(self, step: int = 0, action: Callable[[], None] | None = None) -> None:
        self._step, self._action, self._done = step, action, 0.0

    def start_at(self, done: float) -> None:
        self._done = done

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._done += amount
        if self._action is not None and self._done == self._step:
            self._action()


@pytest.fixture(scope="session")
def after_step() -> type[Silence]:
    """Return a progress reporter that runs an action after a step."""
    return Silence
