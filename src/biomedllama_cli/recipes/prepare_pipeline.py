"""The steps of one task, built from settings and what the job has settled: the same on every machine."""

from __future__ import annotations

from pathlib import Path

from datatrove.pipeline.base import PipelineStep
from pydantic import BaseModel, ConfigDict

from biomedllama_cli.corpus.manifest import TOKENIZER_FOLDER
from biomedllama_cli.corpus.source import Source
from biomedllama_cli.corpus.steps import Decontaminate, ReadRecords, Select
from biomedllama_cli.corpus.task_writer import WriteTask
from biomedllama_cli.recipes.prepare_source import build_gates, decontamination_mode, signs
from biomedllama_cli.settings.prepare import PrepareSettings

INDEX_FOLDER = "benchmarks"
PROGRESS_FILE = "progress.u64"
TASKS_FOLDER = "tasks"


class Settled(BaseModel):
    """What is settled once for all tasks of a job."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tasks: int
    """Parts the input is cut into."""
    tokenizer_digest: str
    """SHA-256 of the tokenizer in the work folder."""
    adds_bos: bool
    """Whether BOS begins each document."""
    index_digest: str | None
    """SHA-256 of the index of benchmark items in the work folder, or None when none is looked for."""
    threads: int
    """Threads SentencePiece may use in one task, -1 for one per core."""


def build_pipeline(
    settings: PrepareSettings, source: Source, work: Path, settled: Settled
) -> list[PipelineStep]:
    """Return the steps that turn one part of the input into a task's folder.

    Args:
        settings: all settings.
        source: the whole input.
        work: the work folder, with the tokenizer and the index of benchmark items in it.
        settled: what the job has settled.
    """
    gates = build_gates(settings, source)
    reader = ReadRecords(
        source, skip_bad=settings.source.on_bad_record == "skip", progress=work / PROGRESS_FILE
    )
    steps: list[PipelineStep] = [reader, Select(gates)]
    if settled.index_digest is not None:
        drop = decontamination_mode(settings) == "drop"
        steps.append(Decontaminate(work / INDEX_FOLDER, settled.index_digest, drop=drop))
    steps.append(
        WriteTask(
            reader,
            gates,
            work / TOKENIZER_FOLDER,
            work / TASKS_FOLDER,
            digest=settled.tokenizer_digest,
            adds_bos=settled.adds_bos,
            signs=signs(settings, source),
            threads=settled.threads,
        )
    )
    return steps
