"""`biomedllama pretrain`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.job import read_arguments, run_job
from biomedllama_cli.cli.output import Report


def pretrain(context: typer.Context) -> Report | None:
    """Train a causal language model further (or from scratch) on a prepared corpus."""
    from biomedllama_cli.settings.pretrain import PretrainSettings

    call = read_call(context, PretrainSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    if call.settings.launch.slurm:
        from biomedllama_cli.recipes.pretrain_slurm import submit_pretrain

        return submit_pretrain(call.settings, read_arguments(context), dry_run=call.dry_run)
    if call.settings.launch.print_launch:
        from biomedllama_cli.engine.launch_text import describe_launch

        given = [each for each in read_arguments(context) if each not in ("--print-launch", "--dry-run")]
        return describe_launch(call.settings.parallel, given)

    def story() -> Report:
        from biomedllama_cli.recipes.pretrain import pretrain as recipe

        return recipe(call.settings, dry_run=call.dry_run)

    settings = call.settings
    return run_job(context, settings.parallel, story, alone=call.dry_run, resume=settings.resume)
