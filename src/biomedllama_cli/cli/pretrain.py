"""`biomedllama pretrain`."""

from __future__ import annotations

import sys

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.job import run_job
from biomedllama_cli.cli.output import Report
from biomedllama_cli.errors import UnavailableError


def pretrain(context: typer.Context) -> Report | None:
    """Train a causal language model further (or from scratch) on a prepared corpus."""
    from biomedllama_cli.settings.pretrain import PretrainSettings

    call = read_call(context, PretrainSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    if call.settings.launch.slurm:
        raise UnavailableError(
            "launch.slurm is on, but this version writes no Slurm script.",
            "Start the command in a batch script: `srun biomedllama pretrain ...` with one task per GPU.",
        )
    if call.settings.launch.print_launch:
        from biomedllama_cli.engine.launch_text import describe_launch

        given = [each for each in (context.obj or sys.argv[1:]) if each != "--print-launch"]
        return describe_launch(call.settings.parallel, given)

    def story() -> Report:
        from biomedllama_cli.recipes.pretrain import pretrain as recipe

        return recipe(call.settings, dry_run=call.dry_run)

    return run_job(context, call.settings.parallel, story, alone=call.dry_run)
