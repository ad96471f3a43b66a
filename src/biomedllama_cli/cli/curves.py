"""`biomedllama curves`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.output import Report


def curves(context: typer.Context) -> Report:
    """Draw the loss, learning rate, gradient norm and throughput of a run, also while it trains."""
    from biomedllama_cli.settings.curves import CurvesSettings

    call = read_call(context, CurvesSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    from biomedllama_cli.recipes.curves import curves as recipe

    return recipe(call.settings, dry_run=call.dry_run)
