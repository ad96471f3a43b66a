"""Settings of `biomedllama evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from biomedllama_cli.settings.base import Settings

TaskName = Literal[
    "medqa", "medqa-5", "medmcqa", "pubmedqa", "pubmed-abstracts", "pubmed-central", "sample-questions"
]


class ProtocolSettings(Settings):
    """What is asked and how it is scored."""

    task: tuple[TaskName, ...] = ("medqa",)
    """Task to run; repeatable. medqa has 4 options, medqa-5 has 5."""
    data: tuple[str, ...] = ()
    """TASK=FILE: read a task from a local file in its original schema; TASK.train=FILE: its few-shot
    pool; repeatable."""
    shots: NonNegativeInt = 0
    """Few-shot examples before each question (in examples)."""
    limit: PositiveInt | None = None
    """Score only this many questions or documents per task (in items); few-shot draws do not change."""
    context_length: PositiveInt = 2048
    """Longest input (in tokens), lowered to the model's own limit; longer ones lose their left end."""


class ComputeSettings(Settings):
    """How it is computed."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the model; auto is fp16 on CUDA (as published) and fp32 on the CPU."""
    batch_size: PositiveInt = 8
    """Rows scored at once (in rows)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to score on; auto takes CUDA where it is there."""
    attention: Literal["auto", "xformers", "sdpa", "eager"] = "auto"
    """Attention implementation."""


class EvaluateSettings(Settings):
    """Score a model on biomedical tasks with the published protocol."""

    workspace: Path = Path(".")
    """Folder that holds `corpora/` and `runs/`."""
    model: str | None = None
    """Hub id, model folder or checkpoint [default: the newest checkpoint of the workspace]."""
    output_dir: Path | None = None
    """Folder for results.json and samples [default: runs/evaluate-... in the workspace]."""
    overwrite: bool = False
    """Replace an output folder that holds other results."""
    seed: NonNegativeInt = 42
    """Seed of the item shuffle and the few-shot draws (42 as published)."""
    protocol: ProtocolSettings = ProtocolSettings()
    compute: ComputeSettings = ComputeSettings()
