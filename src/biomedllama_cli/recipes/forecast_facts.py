"""What a plan of a run starts from: the run, its model and the devices it is planned for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psutil
import torch

from biomedllama_cli.engine.plan_cost import DEVICES, GIB
from biomedllama_cli.engine.sharding import MeshShape, World, choose_mesh, data_ranks
from biomedllama_cli.models.flops import find_peak_flops, training_flops_per_token
from biomedllama_cli.models.precision import DTYPES
from biomedllama_cli.recipes.forecast_memory import ModelShape
from biomedllama_cli.recipes.forecast_report import ClusterFacts, TextFacts
from biomedllama_cli.settings.pretrain import PretrainSettings

GIGA = 1e9


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before its plan.

    Attributes:
        settings: the whole tree.
        world: processes that are planned for.
        device: `cuda` or `cpu`.
        attention: that the model computes with, or `auto` where that cannot be found out here.
        config: of the text model.
        text: that is trained on.
        steps: packed.
        truncated: rows, steps and tokens with one truncated document per row; None where documents are not counted.
    """

    settings: PretrainSettings
    world: World
    device: str
    attention: str
    config: Any
    text: TextFacts
    steps: int
    truncated: tuple[float, int, float | None] | None

    @cached_property
    def shape(self) -> ModelShape:
        """Return the model's counts."""
        return ModelShape.of(self.config)

    @cached_property
    def mesh(self) -> MeshShape:
        """Return the mesh that is asked for."""
        return choose_mesh(self.settings.parallel, self.world)

    @cached_property
    def cluster(self) -> ClusterFacts:
        """Return the devices."""
        return describe_cluster(self)

    @property
    def compute_bytes(self) -> int:
        """Return the bytes of a number in the pass."""
        return DTYPES[self.settings.numerics.precision].itemsize

    @property
    def step_tokens(self) -> int:
        """Return the tokens of a step."""
        return self.settings.batch.global_batch_size * self.settings.batch.sequence_length

    @property
    def flops_per_token(self) -> float:
        """Return the FLOPs of a forward and a backward pass for one token."""
        return training_flops_per_token(
            matmul_parameters=self.shape.description.matmul_parameters,
            layers=self.shape.description.layers,
            attention_size=self.shape.description.attention_size,
            sequence_length=self.settings.batch.sequence_length,
        )

    def count_micro_batches(self, mesh: MeshShape, micro_batch_size: int) -> int:
        """Return the micro-batches of one rank and step on a mesh."""
        return max(1, self.settings.batch.global_batch_size // (micro_batch_size * data_ranks(mesh)))


def describe_cluster(facts: RunFacts) -> ClusterFacts:
    """Return the devices that are planned for: the named ones, else those of this machine."""
    plan, world = facts.settings.plan, facts.world
    known = DEVICES[plan.plan_device] if plan.plan_device else None
    name = str(plan.plan_device or facts.device)
    memory = known.memory if known else None
    if known is None and facts.device == "cpu":
        memory = psutil.virtual_memory().total / world.local_world_size
    elif known is None and torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = float(torch.cuda.get_device_properties(0).total_memory)
    if plan.plan_device_memory is not None:
        memory = plan.plan_device_memory * GIB
    inside, across = plan.bandwidth_inside, plan.bandwidth_across
    return ClusterFacts(
        device=name,
        nodes=world.world_size // world.local_world_size,
        devices_per_node=world.local_world_size,
        devices=world.world_size,
        memory_bytes=memory,
        peak_flops=facts.settings.monitor.peak_flops
        or find_peak_flops(name, facts.settings.numerics.precision),
        bandwidth_inside=inside * GIGA if inside else known.inside_bandwidth if known else None,
        bandwidth_across=across * GIGA if across else None,
    )
