"""`biomedllama pretrain`."""

from __future__ import annotations

import sys

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.output import Report


def pretrain(context: typer.Context) -> Report | None:
    """Train a causal language model further (or from scratch) on a prepared corpus."""
    from biomedllama_cli.settings.pretrain import PretrainSettings

    call = read_call(context, PretrainSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    from biomedllama_cli.engine.launch import launch_if_needed
    from biomedllama_cli.engine.rank import run_as_rank

    arguments = sys.argv[1:] if context.obj is None else context.obj
    if not call.dry_run and launch_if_needed(call.settings.parallel, arguments) is not None:
        return None  # the first of the processes it started has printed the report

    def story() -> Report:
        # In here, so that a rank reports an import that fails as well.
        from biomedllama_cli.recipes.pretrain import pretrain as recipe

        return recipe(call.settings, dry_run=call.dry_run)

    return run_as_rank(story)
