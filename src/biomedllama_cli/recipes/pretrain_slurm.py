"""`biomedllama pretrain --slurm`: the whole run as one Slurm job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.corpus.sbatch import check_sbatch
from biomedllama_cli.engine.slurm_flags import check_slurm, strip_slurm_flags
from biomedllama_cli.engine.slurm_job import SlurmJob
from biomedllama_cli.recipes.pretrain import pretrain
from biomedllama_cli.recipes.pretrain_plan import find_corpus
from biomedllama_cli.recipes.pretrain_report import PretrainReport
from biomedllama_cli.settings.pretrain import PretrainSettings
from biomedllama_cli.wording import name_count


class SlurmReport(BaseModel):
    """A Slurm job of a training run, or with `dry_run` the one that would be."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: str = "biomedllama.slurm/1"
    """Changes when a reader of this report would have to."""
    status: Literal["submitted", "would submit"]
    """What was done; `would submit` for a dry run."""
    job: str | None = None
    """Id as sbatch gave it (`123` or `123;cluster`); null for a dry run."""
    nodes: int
    """Nodes of the job."""
    processes: int
    """Processes on each node."""
    script: Path
    """Where the script is; of a dry run, where it would be."""
    script_text: str
    """What is in it."""
    log: Path | None = None
    """What the run says; each start of the job appends to it."""
    plan: PretrainReport
    """What the run will be, as its own dry run says."""

    def lines(self) -> list[str]:
        """Return the summary for people."""
        size = f"{name_count(self.nodes, 'node')} x {self.processes} process{'' if self.processes == 1 else 'es'}"
        if self.job is None:
            head = f"Would submit this script, {self.script}, to Slurm ({size}):"
            return [*self.plan.lines(), head, *self.script_text.splitlines()]
        return [
            f"Slurm has the run as job {self.job}: {size}, {name_count(self.plan.steps, 'step')}.",
            f"Script: {self.script}",
            f"Log: {self.log}",
            f"Run folder: {self.plan.run_folder}",
        ]


def submit_pretrain(
    settings: PretrainSettings, arguments: Sequence[str], *, dry_run: bool = False
) -> SlurmReport:
    """Hand a training run to Slurm, once everything that can be checked here has been.

    Args:
        settings: the whole tree of the command.
        arguments: the command line after `biomedllama`, which the nodes run.
        dry_run: only show the plan and the script; nothing is written or submitted.

    Raises:
        SettingsError: what is said of the job contradicts itself, or batch and mesh do not fit it.
        DataError: the corpus is missing.
        OutputError: the run folder holds something else, or Slurm has a job of this run already.
        UnavailableError: there is no sbatch here.
        WorkerError: sbatch refused the job.
    """
    launch, parallel = settings.launch, settings.parallel
    check_slurm(launch, parallel, settings.resume)
    if not dry_run:
        check_sbatch("launch.slurm is on", "look at the script with --dry-run")
        find_corpus(settings)  # a plan needs none
    if parallel.device == "auto":  # GPUs, also where the login node has none
        settings = settings.model_copy(update={"parallel": parallel.model_copy(update={"device": "cuda"})})
    plan = pretrain(settings, dry_run=True)
    folder = Path(plan.run_folder).resolve()
    job = SlurmJob(folder, Path.cwd(), strip_slurm_flags(arguments), launch, parallel)
    number = None if dry_run else job.submit()
    return SlurmReport(
        status="submitted" if number else "would submit",
        job=number,
        nodes=parallel.nodes,
        processes=parallel.num_processes or 1,
        script=job.script,
        script_text=job.build_script(),
        log=job.find_log(number) if number else None,
        plan=plan,
    )
