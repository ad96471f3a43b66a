"""`biomedllama evaluate`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.output import Report


def evaluate(context: typer.Context) -> Report:
    """Score a model on biomedical tasks with the published protocol."""
    from biomedllama_cli.settings.evaluate import EvaluateSettings

    call = read_call(context, EvaluateSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    from biomedllama_cli.recipes.evaluate import evaluate as recipe

    return recipe(call.settings, dry_run=call.dry_run)
