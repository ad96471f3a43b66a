"""Settings of `biomedllama finetune`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

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

FINETUNE_TASKS = ("medqa", "medqa-5", "medmcqa", "pubmedqa")


class QuestionSettings(Settings):
    """What is trained on and tested."""

    task: str = Field(default="medqa", examples=list(FINETUNE_TASKS))
    """medqa, medqa-5, medmcqa, pubmedqa, or a file of your own questions (one JSON object per line: `question`,
    `options`, `answer_index`, and `context` where there is one)."""
    data: tuple[str, ...] = ()
    """TASK.train=FILE: training questions, TASK=FILE: test questions, both in the task's original schema; repeatable
    [default: from the hub]."""
    test: Path | None = None
    """Test questions for a task that is a file."""
    data_version: Literal["published", "cleaned"] = "published"
    """Train on all questions as published, or without those that have defects (duplicate options, no key ...)."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the training questions held out to choose the best checkpoint (a fraction); 0 takes the last one."""
    limit: PositiveInt | None = None
    """Train on only this many questions (in questions), drawn with the seed 0 whatever the seeds."""
    evaluate: bool = True
    """Score the test questions before and after."""
    test_limit: PositiveInt | None = None
    """Score only this many test questions (in questions)."""

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        for entry in self.data:
            name, equals, file = entry.partition("=")
            if name not in (self.task, f"{self.task}.train") or not equals or not file:
                raise ValueError(f"data is {entry!r}; it must be {self.task}=FILE or {self.task}.train=FILE")
            if sum(other.startswith(f"{name}=") for other in self.data) > 1:
                raise ValueError(f"data names {name} more than once; each is one file")
        return self

    @property
    def training_file(self) -> Path | None:
        """Return the local file of training questions."""
        return self._find_file(f"{self.task}.train")

    @property
    def test_file(self) -> Path | None:
        """Return the local file of test questions."""
        return self._find_file(self.task)

    def _find_file(self, name: str) -> Path | None:
        files = [entry.partition("=")[2] for entry in self.data if entry.startswith(f"{name}=")]
        return Path(files[-1]) if files else None


class FinetuneSettings(Settings):
    """Fine-tune a causal language model on multiple-choice questions; score it before and after."""

    workspace: Path = Path(".")
    """Folder that holds `corpora/` and `runs/`."""
    model: str = ""
    """Hub id, local folder, or checkpoint [default: the newest of the workspace that finetune did not make]."""
    output_dir: Path | None = None
    """Run folder [default: runs/finetune-TASK-MODEL in the workspace]."""
    seeds: str = "0"
    """Seeds of the order of examples and of the adapters; several (0,1,2) are trained one after the other, and
    tabulated as mean and standard deviation."""
    resume: Literal["auto", "never"] = "auto"
    """auto continues the newest checkpoint of each run folder, never refuses one."""
    overwrite: bool = False
    """Replace a run folder that holds another run."""
    show_masks: NonNegativeInt = 0
    """Train nothing: print so many rows, the trained tokens coloured."""
    questions: QuestionSettings = QuestionSettings()
    adapter: AdapterSettings = AdapterSettings()
    rows: RowSettings = RowSettings(template="plain")
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

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: str) -> str:
        if not re.fullmatch("[0-9]+(,[0-9]+)*", seeds):
            rule = "must be whole numbers with commas between, such as 0,1,2"
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        numbers = [int(seed) for seed in seeds.split(",")]
        if len(set(numbers)) < len(numbers):
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": "must name each seed once"})
        return seeds

    @property
    def seed_list(self) -> tuple[int, ...]:
        """Return the seeds as numbers."""
        return tuple(map(int, self.seeds.split(",")))
