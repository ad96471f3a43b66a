"""Memory of one rank for every choice, each step rehearsed once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import psutil
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from biomedllama_cli.engine.activation_checkpointing import recompute_layers
from biomedllama_cli.engine.fsdp_groups import group_parameters
from biomedllama_cli.engine.plan_memory import (
    CHECKPOINTING,
    GAP_SHARE,
    GAP_SHARE_OF_ONE,
    USABLE_SHARE,
    MemoryChoice,
    RankMemory,
    plan_state,
)
from biomedllama_cli.engine.plan_step import ActivationSaving, Rehearsal, StepMemory, rehearse_step
from biomedllama_cli.engine.traffic import ParameterGroup
from biomedllama_cli.models.description import ModelDescription, describe_model
from biomedllama_cli.models.precision import DTYPES
from biomedllama_cli.recipes.forecast_report import MemoryParts
from biomedllama_cli.settings.pretrain import PretrainSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelShape:
    """A model as its configuration describes it.

    Attributes:
        config: of the text model.
        description: its counts.
        groups: what FSDP gathers together; empty where the model cannot be sharded.
        key_value_size: width of the keys, and of the values, of one layer.
    """

    config: Any
    description: ModelDescription
    groups: tuple[ParameterGroup, ...]
    key_value_size: int

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """Read a configuration; no memory is taken for weights."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        description = describe_model(model)
        heads = config.num_attention_heads
        grouped = getattr(config, "num_key_value_heads", None) or heads
        size = description.attention_size // heads * grouped
        return cls(config, description, tuple(group_parameters(model)), size)


def list_savers() -> dict[str, ActivationSaving | None]:
    """Return what each kind of activation checkpointing does to a model, the weakest first."""
    return {mode: None if mode == "none" else partial(recompute_layers, mode=mode) for mode in CHECKPOINTING}


def measure_program(precision: str) -> int:
    """Return the memory of this process once a first pass has loaded what passes need (in bytes).

    Kernels and their libraries come with the first use: some 40 MB that are no tensors.
    """
    layer, rows = torch.nn.Linear(64, 64), torch.ones(8, 64)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"):
        loss = functional.cross_entropy(layer(rows), torch.zeros(8, dtype=torch.long))
    loss.backward()  # type: ignore[no-untyped-call]
    torch.optim.AdamW(layer.parameters(), fused=True).step()
    return int(psutil.Process().memory_info().rss)


class MemoryPlanner:
    """Works out what a rank needs, and remembers the steps it has rehearsed.

    Args:
        shape: of the model.
        settings: of the run.
        attention: that the model computes with.
        on_cpu: whether the program itself shares the memory.
    """

    def __init__(
        self, shape: ModelShape, settings: PretrainSettings, attention: str, *, on_cpu: bool
    ) -> None:
        self._shape, self._settings, self._attention = shape, settings, attention
        self._savers = list_savers()
        self._program = measure_program(settings.numerics.precision) if on_cpu else 0
        self._rehearse = lru_cache(maxsize=None)(self._rehearse_once)

    def find_memory(self, choice: MemoryChoice) -> RankMemory:
        """Return what one rank needs."""
        sharded = choice.sharding != "replicate" and choice.devices > 1
        compute_bytes = DTYPES[self._settings.numerics.precision].itemsize
        strategy = choice.sharding if sharded else "replicate"
        state = plan_state(self._shape.groups, strategy, choice.ranks, compute_bytes)
        parallel, global_batch = self._settings.parallel, self._settings.batch.global_batch_size
        at_once = choice.micro_batch_size * max(1, choice.devices // parallel.cp_size)
        accumulates = global_batch > at_once
        # With layers computed again, large blocks are mapped apart (`save_activations`), which leaves no gaps.
        has_gaps = self._program > 0 and choice.activation_checkpointing == "none"
        step = self._rehearse(
            choice.activation_checkpointing,
            choice.micro_batch_size,
            choice.loss_memory,
            sharded=sharded,
            accumulates=accumulates or has_gaps,
        )
        share = GAP_SHARE if accumulates else GAP_SHARE_OF_ONE
        return RankMemory(state, step, self._program, round(share * step.small) if has_gaps else 0)

    def _rehearse_once(
        self, mode: str, micro_batch_size: int, loss_memory: str, *, sharded: bool, accumulates: bool
    ) -> StepMemory:
        numerics, length = self._settings.numerics, self._settings.batch.sequence_length
        context = self._settings.parallel.cp_size
        rehearsal = Rehearsal(
            micro_batch_size,
            length // context,
            numerics.precision,
            attention=self._attention,
            sharded=sharded,
            accumulates=accumulates,
            loss_memory=_find_loss(loss_memory, numerics.precision),
        )
        step = rehearse_step(self._shape.config, rehearsal, self._savers[mode])
        number_bytes = DTYPES[numerics.precision].itemsize
        beside = 0
        if context > 1:  # keys and values of whole rows, and a mask of this rank's tokens
            layers = self._shape.description.layers if mode == "none" else 1
            beside += 2 * layers * micro_batch_size * length * self._shape.key_value_size * number_bytes
            beside += micro_batch_size * length * (length // context) * number_bytes
        elif self._attention == "sdpa":  # a mask that keeps documents apart
            beside += micro_batch_size * length * length * (1 + number_bytes)
        return replace(step, activations=step.activations + beside)


def _find_loss(loss_memory: str, precision: str) -> str:
    """Return what becomes of a kind of loss: in fp16 `fused` is `chunks` (`models/loss.py`)."""
    return "chunks" if loss_memory == "fused" and precision == "fp16" else loss_memory


def describe_memory(memory: RankMemory, device_bytes: float | None) -> MemoryParts:
    """Return the parts, and whether they fit."""
    state, step = memory.state, memory.step
    return MemoryParts(
        weights=state.weights,
        gathered_weights=state.gathered,
        gradients=state.gradients,
        gradient_reduction=state.reduction,
        optimizer=state.optimizer,
        activations=step.activations,
        logits=step.logits,
        program=memory.program,
        gaps=memory.gaps,
        total=memory.total,
        logits_peak=step.logits_peak,
        fits=None if device_bytes is None else memory.total <= USABLE_SHARE * device_bytes,
    )
