"""`biomedllama pretrain`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.job import run_job
from biomedllama_cli.cli.output import Report


def pretrain(context: typer.Context) -> Report | None:
    """Train a causal language model further (or from scratch) on a prepared corpus."""
    from biomedllama_cli.settings.pretrain import PretrainSettings

    call = read_call(context, PretrainSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    def story() -> Report:
        from biomedllama_cli.recipes.pretrain import pretrain as recipe

        return recipe(call.settings, dry_run=call.dry_run)

    return run_job(context, call.settings.parallel, story, alone=call.dry_run)
