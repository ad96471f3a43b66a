"""Settings of `biomedllama instruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from biomedllama_cli.settings.base import Settings
from biomedllama_cli.settings.pretrain import ParallelSettings
from biomedllama_cli.settings.tuning import (
    AdapterSettings,
    DecontaminationSettings,
    RowSettings,
    TuningBatchSettings,
    TuningCheckpointSettings,
    TuningDurationSettings,
    TuningMonitorSettings,
    TuningNumericsSettings,
    TuningOptimizerSettings,
    TuningScheduleSettings,
    check_adapter,
)


class MixtureSettings(Settings):
    """What is drawn from where."""

    mixture: str = Field(default="paper", examples=["paper", "permissive", "list"])
    """paper (the ten published sources), permissive (those whose licence allows any use), or a YAML file;
    `list` shows the sources of the first two."""
    source: tuple[str, ...] = ()
    """NAME=FILE: where a source of the mixture lies on this machine; repeatable [default: as the mixture says]."""
    skip_missing: bool = False
    """Leave out sources that cannot be had, and give their share to the others."""
    draws: PositiveInt = 50_000
    """Examples drawn per epoch (in examples)."""
    data_version: Literal["published", "cleaned"] = "published"
    """Take all questions of the three benchmarks' training sets, or leave out those with defects."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of each source held out (a fraction); a source of fewer than 100 examples gives none."""


class InstructSettings(Settings):
    """Tune a causal language model to follow instructions, on a mixture of sources."""

    workspace: Path = Path(".")
    """Folder that holds `corpora/` and `runs/`."""
    model: str = ""
    """Hub id, local folder, or checkpoint [default: the newest of the workspace that instruct did not make]."""
    output_dir: Path | None = None
    """Run folder [default: runs/instruct-MIXTURE-MODEL in the workspace]."""
    seed: NonNegativeInt = 0
    """Seed of the draw and of the adapters."""
    resume: Literal["auto", "never"] = "auto"
    """auto continues the newest checkpoint of the run folder, never refuses one."""
    overwrite: bool = False
    """Replace a run folder that holds another run."""
    show_masks: NonNegativeInt = 0
    """Train nothing: print so many examples, the first that are drawn, the trained tokens coloured."""
    mixture: MixtureSettings = MixtureSettings()
    adapter: AdapterSettings = AdapterSettings()
    rows: RowSettings = RowSettings()
    decontamination: DecontaminationSettings = DecontaminationSettings()
    batch: TuningBatchSettings = TuningBatchSettings()
    duration: TuningDurationSettings = TuningDurationSettings()
    optimizer: TuningOptimizerSettings = TuningOptimizerSettings()
    schedule: TuningScheduleSettings = TuningScheduleSettings()
    numerics: TuningNumericsSettings = TuningNumericsSettings()
    parallel: ParallelSettings = ParallelSettings()
    checkpoint: TuningCheckpointSettings = TuningCheckpointSettings()
    monitor: TuningMonitorSettings = TuningMonitorSettings()

    @model_validator(mode="after")
    def _check_adapter(self) -> Self:
        check_adapter(self.adapter)
        return self
