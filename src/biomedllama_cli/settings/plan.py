"""What `pretrain --dry-run` plans with: a corpus and a cluster that need not be here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from biomedllama_cli.settings.base import Settings

DeviceName = Literal["A100-40GB", "A100-80GB", "H100-80GB", "H200-141GB"]


class PlanSettings(Settings):
    """The plan that --dry-run prints (the training itself reads nothing of this)."""

    plan_nodes: PositiveInt | None = None
    """Nodes to plan for where neither --nodes nor --num-processes is given (in nodes) [default: one]."""
    plan_processes: PositiveInt | None = None
    """Devices of each of them where --num-processes names none (in devices) [default: those here]."""
    plan_device: DeviceName | None = None
    """Device to plan for: its memory, peak and bandwidth [default: the one here]."""
    plan_device_memory: PositiveFloat | None = None
    """Memory of one device (in GiB) [default: the device's; on a CPU this machine's, shared by the processes]."""
    plan_tokens: PositiveFloat | None = None
    """Tokens of a corpus that is not prepared yet (in tokens, 63e9 for example), counted in whole steps, while a run of
    a corpus ends with a part-filled one; --corpus wins over it [default: those of the corpus]."""
    plan_unique_tokens: PositiveFloat | None = None
    """Those of them that are there once (in tokens) [default: all]."""
    plan_documents: PositiveFloat | None = None
    """Its documents (in documents), for the plan of one truncated document per row."""
    plan_truncated_tokens: PositiveFloat | None = None
    """Its tokens when each document is cut after 2048 (in tokens); of no use at another sequence length."""
    assumed_mfu: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the devices' peak that training is assumed to use (a fraction)."""
    bandwidth_inside: PositiveFloat | None = None
    """What one device sends to the others of its node (in GB/s) [default: the planned device's NVLink]."""
    bandwidth_across: PositiveFloat | None = None
    """What one node sends to the others (in GB/s)."""
    price_per_device_hour: NonNegativeFloat | None = None
    """Price of one device for an hour, in any currency."""
